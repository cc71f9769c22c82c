import { badRequest, notFound } from '#core/errors.ts';
import { type BackupId, newId, type VolumeId } from '#core/ids.ts';
import { backupStatuses } from '#core/volume.ts';
import {
  type Backup,
  claimBackup,
  countDependents,
  findBackup,
  insertBackup,
  isBeingRestored,
  latestBackup,
  lockBackup,
} from '#db/backups.ts';
import { disksOf, insertDisks } from '#db/disks.ts';
import { lockSnapshot, updateSnapshot } from '#db/snapshots.ts';
import { claimVolume, findVolume } from '#db/volumes.ts';
import type { OperationContext } from '#operations/context.ts';
import { createBackup, deleteBackup } from '#operations/create-backup.ts';
import { type Operation, pendingOn } from '#operations/engine.ts';
import { checkCanBeRead, checkIsFree, diskBeside } from '#operations/plan-volume.ts';
import { restoreBackup } from '#operations/restore-backup.ts';
import type { Requester } from '#operations/server-operations.ts';
import type { BackupInput } from '#operations/volume-context.ts';
import type { Admit, BackupOperations, BackupRequest } from '#operations/volume-operations.ts';

/** Every operation on backups. */
export function backupOperations(context: OperationContext): Operation<BackupInput>[] {
  return [createBackup(context), restoreBackup(context), deleteBackup(context)];
}

/** Sets operations on backups going on the durable engine. */
export class DurableBackupOperations implements BackupOperations {
  readonly #context: OperationContext;

  constructor(context: OperationContext) {
    this.#context = context;
  }

  async create(id: VolumeId, request: BackupRequest, requester: Requester, admit: Admit): Promise<Backup> {
    const backupId = newId<BackupId>();
    const { requestId, projectId, userId } = requester;
    const operation = pendingOn<BackupInput>('create-backup', { backupId, volumeId: id, requestId });
    let made: Backup | null = null;
    await claimVolume(this.#context.db, id, 'back-up', operation, async (tx, volume) => {
      checkCanBeRead(volume, request.force || request.snapshotId !== null);
      const parent = request.incremental ? await latestBackup(tx, id, projectId) : null;
      if (request.incremental && !parent) {
        throw badRequest('Invalid backup: No backups available to do an incremental backup.');
      }
      if (parent) await lockBackup(tx, parent.id, { action: 'build upon', from: ['available'] });
      if (request.snapshotId !== null) {
        checkIsFree(await lockSnapshot(tx, request.snapshotId), 'back up');
        await updateSnapshot(tx, request.snapshotId, { status: 'backing-up' });
      }
      await admit(tx);
      const [like] = await disksOf(tx, request.snapshotId ?? id);
      if (!like) throw new Error(`volume ${id} has no disk`);
      made = await insertBackup(tx, {
        id: backupId,
        volume_id: id,
        snapshot_id: request.snapshotId,
        parent_id: parent?.id ?? null,
        project_id: projectId,
        user_id: userId,
        name: request.name,
        description: request.description,
        metadata: JSON.stringify(request.metadata),
        container: request.container,
        size_gib: volume.size_gib,
        status: 'creating',
        fail_reason: null,
        volume_type_id: volume.volume_type_id,
        availability_zone: volume.availability_zone,
        secret_id: null,
        restored_volume_id: null,
        operation: JSON.stringify(operation),
        updated_at: new Date(),
      });
      await insertDisks(tx, [diskBeside(like, { owner_id: backupId, role: 'backup', project_id: projectId })]);
    });
    await this.#context.engine.begin(operation);
    if (!made) throw new Error('a backup was claimed and not written');
    return made;
  }

  async restore(id: BackupId, volumeId: VolumeId, { requestId }: Requester): Promise<void> {
    const operation = pendingOn<BackupInput>('restore-backup', { backupId: id, volumeId, requestId });
    const creation = (await findVolume(this.#context.db, volumeId))?.operation;
    if (creation?.name === 'create-volume') await this.#context.engine.settled(creation.id);
    await claimVolume(this.#context.db, volumeId, 'restore', operation, async (tx, volume) => {
      const claim = { action: 'restore', from: ['available'], during: 'restoring' } as const;
      const backup = await claimBackup(tx, id, claim, operation);
      if (volume.size_gib < backup.size_gib) {
        throw badRequest(
          `Invalid volume: volume size ${volume.size_gib} is too small to restore backup of size ${backup.size_gib}.`,
        );
      }
    });
    await this.#context.engine.begin(operation);
  }

  async delete(id: BackupId, { requestId }: Requester, { force }: { readonly force: boolean }): Promise<void> {
    const backup = await findBackup(this.#context.db, id);
    if (!backup) throw notFound('Backup', id);
    const operation = pendingOn<BackupInput>('delete-backup', { backupId: id, volumeId: backup.volume_id, requestId });
    const from = force ? backupStatuses : (['available', 'error'] as const);
    await this.#context.db.transaction().execute(async (tx) => {
      await claimBackup(tx, id, { action: 'delete', from, during: 'deleting' }, operation);
      if ((await countDependents(tx, id)) > 0) {
        throw badRequest('Invalid backup: Incremental backups exist for this backup.');
      }
      if (await isBeingRestored(tx, id)) throw badRequest('Invalid backup: A volume is being made from this backup.');
    });
    await this.#context.engine.begin(operation);
  }
}
