import type { RequestContext } from '#api/auth.ts';
import { isStorableText } from '#api/fields.ts';
import { notFound } from '#core/errors.ts';
import type { BackupId, SnapshotId, VolumeId } from '#core/ids.ts';
import { type Backup, findBackup } from '#db/backups.ts';
import type { Database } from '#db/database.ts';
import { findSnapshot, type Snapshot } from '#db/snapshots.ts';
import { findVolume, type Volume } from '#db/volumes.ts';

/** A volume that the caller may see. @throws not-found, also for those of others: nobody learns that they are there. */
export async function getVolume(db: Database, id: string, context: RequestContext): Promise<Volume> {
  const volume = isStorableText(id) ? await findVolume(db, id as VolumeId) : null;
  if (volume && volume.deleted_at === null && mayTouch(volume, context)) return volume;
  throw notFound('Volume', id);
}

/** As `getVolume`, of a snapshot. */
export async function getSnapshot(db: Database, id: string, context: RequestContext): Promise<Snapshot> {
  const snapshot = isStorableText(id) ? await findSnapshot(db, id as SnapshotId) : null;
  if (snapshot && snapshot.deleted_at === null && mayTouch(snapshot, context)) return snapshot;
  throw notFound('Snapshot', id);
}

/** As `getVolume`, of a backup. */
export async function getBackup(db: Database, id: string, context: RequestContext): Promise<Backup> {
  const backup = isStorableText(id) ? await findBackup(db, id as BackupId) : null;
  if (backup && backup.deleted_at === null && mayTouch(backup, context)) return backup;
  throw notFound('Backup', id);
}

function mayTouch({ project_id }: Pick<Volume, 'project_id'>, { projectId, isAdmin }: RequestContext): boolean {
  return isAdmin || project_id === projectId;
}
