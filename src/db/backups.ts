import type { Insertable, Selectable, Updateable } from 'kysely';
import { sql } from 'kysely';
import { NightlatchError, notFound } from '#core/errors.ts';
import type { BackupId, ProjectId, SecretId, VolumeId } from '#core/ids.ts';
import type { BackupStatus } from '#core/volume.ts';
import type { Queryable } from '#db/database.ts';
import type { Schema } from '#db/schema.ts';
import type { PendingOperation } from '#db/tables/columns.ts';

export type Backup = Selectable<Schema['backups']>;
export type NewBackup = Insertable<Schema['backups']>;
export type BackupChange = Omit<Updateable<Schema['backups']>, 'id' | 'operation'>;

export async function insertBackup(db: Queryable, backup: NewBackup): Promise<Backup> {
  return await db.insertInto('backups').values(backup).returningAll().executeTakeFirstOrThrow();
}

/** The backup, or null when there is none; a deleted one is still found. */
export async function findBackup(db: Queryable, id: BackupId): Promise<Backup | null> {
  return (await db.selectFrom('backups').selectAll().where('id', '=', id).executeTakeFirst()) ?? null;
}

/** Backups that are not deleted, newest first; of one project, or of all. */
export async function listBackups(db: Queryable, projectId: ProjectId | null): Promise<Backup[]> {
  let query = db.selectFrom('backups').selectAll().where('deleted_at', 'is', null);
  if (projectId !== null) query = query.where('project_id', '=', projectId);
  return await query.orderBy('created_at', 'desc').orderBy('id', 'desc').execute();
}

/** The newest whole or incremental backup of a volume that can be built upon; null: none. */
export async function latestBackup(db: Queryable, volumeId: VolumeId, projectId: ProjectId): Promise<Backup | null> {
  const all = await listBackups(db, projectId);
  const usable = all.filter(({ volume_id, status }) => volume_id === volumeId && status === 'available');
  return usable.sort((a, b) => b.data_at.getTime() - a.data_at.getTime())[0] ?? null;
}

/** Backups that build upon this one. */
export async function countDependents(db: Queryable, id: BackupId): Promise<number> {
  const query = db.selectFrom('backups').select('id').where('parent_id', '=', id).where('deleted_at', 'is', null);
  return (await query.execute()).length;
}

/** Whether a volume is being made from this backup. */
export async function isBeingRestored(db: Queryable, id: BackupId): Promise<boolean> {
  const query = db
    .selectFrom('volumes')
    .select('id')
    .where(sql<string>`source ->> 'kind'`, '=', 'backup')
    .where(sql<string>`source ->> 'id'`, '=', id)
    .where('status', '=', 'creating')
    .where('operation', 'is not', null);
  return (await query.executeTakeFirst()) !== undefined;
}

export async function updateBackup(db: Queryable, id: BackupId, change: BackupChange): Promise<void> {
  await db
    .updateTable('backups')
    .set({ ...change, updated_at: new Date() })
    .where('id', '=', id)
    .execute();
}

/**
 * A backup in one of these statuses, which nobody else changes until the transaction ends.
 * @throws not-found (404); backup-state (400).
 */
export async function lockBackup(
  tx: Queryable,
  id: BackupId,
  { action, from }: { action: string; from: readonly BackupStatus[] },
): Promise<Backup> {
  const backup = await tx.selectFrom('backups').selectAll().where('id', '=', id).forUpdate().executeTakeFirst();
  if (!backup || backup.deleted_at !== null) throw notFound('Backup', id);
  if (!from.includes(backup.status) || backup.operation !== null) {
    throw new NightlatchError('backup-state', {
      backup: id,
      action,
      allowed: from.join(' or '),
      status: backup.status,
    });
  }
  return backup;
}

/**
 * Claims a backup for an operation, if it has one of these statuses. For a transaction. Of two callers at once exactly one
 * succeeds. @throws not-found (404); backup-state (400).
 */
export async function claimBackup(
  tx: Queryable,
  id: BackupId,
  { during, ...allowed }: { action: string; from: readonly BackupStatus[]; during: BackupStatus },
  operation: PendingOperation,
): Promise<Backup> {
  await lockBackup(tx, id, allowed);
  const change = { status: during, operation: JSON.stringify(operation), updated_at: new Date() };
  return await tx.updateTable('backups').set(change).where('id', '=', id).returningAll().executeTakeFirstOrThrow();
}

/** Ends an operation as `releaseVolume` does. */
export async function releaseBackup(
  db: Queryable,
  id: BackupId,
  operationId: string,
  change: BackupChange,
): Promise<void> {
  await db
    .updateTable('backups')
    .set({ ...change, operation: null, updated_at: new Date() })
    .where('id', '=', id)
    .where(sql<string>`operation ->> 'id'`, '=', operationId)
    .execute();
}

/** Backups that an operation is under way on. */
export async function backupsInOperation(db: Queryable): Promise<Backup[]> {
  return await db.selectFrom('backups').selectAll().where('operation', 'is not', null).execute();
}

/** Whether a backup that is not deleted names this secret as its key. */
export async function isBackupKey(db: Queryable, secret: SecretId): Promise<boolean> {
  const query = db.selectFrom('backups').select('id').where('secret_id', '=', secret).where('deleted_at', 'is', null);
  return (await query.executeTakeFirst()) !== undefined;
}
