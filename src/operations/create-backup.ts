import { removeBackup, storeBackup } from '#backups/backup-chunks.ts';
import { crashPoint } from '#core/crash-point.ts';
import { NightlatchError } from '#core/errors.ts';
import type { BackupId } from '#core/ids.ts';
import { type Backup, findBackup, releaseBackup, updateBackup } from '#db/backups.ts';
import { updateDisk } from '#db/disks.ts';
import { snapshotReaders, updateSnapshot } from '#db/snapshots.ts';
import { lockVolumeIfThere, readersOf } from '#db/volumes.ts';
import type { OperationContext } from '#operations/context.ts';
import { copyDisk } from '#operations/create-volume.ts';
import type { Failure, Operation } from '#operations/engine.ts';
import { type BackupInput, finishAsBefore, needPlacedDisk, placedDiskOf } from '#operations/volume-context.ts';
import { destroyVolumeDisk, settleThoseBefore, storeVolumeKey } from '#operations/volume-steps.ts';

/**
 * Create backup, of a volume or of one of its snapshots. What it holds at one moment is copied beside it under a key of
 * the backup's own, and the ciphertext stored. Its rows are there before it begins.
 *
 * | step      | effect                                                  | compensation                    | a repeat         |
 * |-----------|---------------------------------------------------------|---------------------------------|------------------|
 * | wait      | what is being made from the volume or its snapshot has ended | –                          | fine             |
 * | store-key | the backup's secret is stored                           | secret destroyed, row ended     | keeps the secret |
 * | copy      | a disk beside the volume holds what it held, locked     | header overwritten, medium gone | starts over      |
 * | upload    | its bytes are in the backup store                       | they are gone                   | starts over      |
 * | hand-over | the backup names the secret, the disk no longer does    | secret goes with the disk again | finds it done    |
 * | remove    | the disk is gone                                        | none                            | fine             |
 * | finish    | backup and volume are available                         | –                               | same             |
 */
export function createBackup(context: OperationContext): Operation<BackupInput> {
  const discard = (input: BackupInput) => discardBackup(context, input);
  return {
    name: 'create-backup',
    steps: [
      { name: 'wait', run: (input) => waitForOthers(context, input) },
      { ...storeVolumeKey(context, ({ backupId }: BackupInput) => backupId), undo: discard },
      { name: 'copy', run: (input) => copy(context, input), undo: discard },
      { name: 'upload', run: (input) => upload(context, input), undo: discard },
      { name: 'hand-over', run: (input) => handOver(context, input) },
      { name: 'remove', run: ({ backupId, requestId }) => destroyVolumeDisk(context, backupId, requestId) },
      { name: 'finish', run: (input) => finish(context, input) },
    ],
    failed: (input, failure) => fail(context, input, failure),
  };
}

/**
 * Delete backup.
 *
 * | step   | effect                                                    | compensation | a repeat |
 * |--------|-----------------------------------------------------------|--------------|----------|
 * | remove | its objects are gone, then its secret                     | none         | fine     |
 * | finish | gone                                                      | –            | same     |
 */
export function deleteBackup(context: OperationContext): Operation<BackupInput> {
  return {
    name: 'delete-backup',
    steps: [
      { name: 'remove', run: (input) => remove(context, input) },
      {
        name: 'finish',
        run: ({ backupId, operationId }) =>
          releaseBackup(context.db, backupId, operationId, { deleted_at: new Date(), secret_id: null }),
      },
    ],
    failed: ({ backupId, operationId }, { message }) =>
      releaseBackup(context.db, backupId, operationId, { status: 'error_deleting', fail_reason: message }),
  };
}

export async function needBackup({ db }: OperationContext, id: BackupId): Promise<Backup> {
  const backup = await findBackup(db, id);
  if (!backup) throw new Error(`backup ${id} has no row`);
  return backup;
}

/**
 * What a store that is gone keeps is ciphertext without a key. The backup that failed still names it, and takes it along
 * when it is deleted.
 */
async function discardBackup(context: OperationContext, { backupId, requestId }: BackupInput): Promise<void> {
  await updateBackup(context.db, backupId, { secret_id: null });
  await destroyVolumeDisk(context, backupId, requestId);
  try {
    await removeBackup(context.backups, backupId);
  } catch (error) {
    const isStores = error instanceof NightlatchError && /^backup-store-/.test(error.code);
    if (!isStores) throw error;
  }
}

async function waitForOthers(context: OperationContext, input: BackupInput): Promise<void> {
  await settleThoseBefore(context, await readersOf(context.db, input.volumeId));
  const { snapshot_id } = await needBackup(context, input.backupId);
  if (snapshot_id !== null) await settleThoseBefore(context, await snapshotReaders(context.db, snapshot_id));
}

async function copy(context: OperationContext, { backupId, volumeId, requestId }: BackupInput): Promise<void> {
  const { snapshot_id } = await needBackup(context, backupId);
  const { disk: from } = await needPlacedDisk(context, snapshot_id ?? volumeId);
  const { disk } = await needPlacedDisk(context, backupId);
  if (disk.state === 'formatted') return;
  await copyDisk(context, { from, disk, requestId, isNewKey: false });
  await updateDisk(context.db, disk.id, { state: 'formatted' });
}

async function upload(context: OperationContext, { backupId }: BackupInput): Promise<void> {
  const backup = await needBackup(context, backupId);
  if (backup.layout !== null) return;
  const { disk, agent } = await needPlacedDisk(context, backupId);
  const stored = await storeBackup(context.backups, backupId, await agent.openMedium(disk), backup.parent_id);
  crashPoint('steps.create-backup.stored');
  const { storage, encryption, sizeBytes } = disk;
  const layout = JSON.stringify({ storage, encryption, sizeBytes });
  await updateBackup(context.db, backupId, { layout, object_count: stored.objects });
}

/** In one transaction, so that at every instant exactly one of the two answers for the secret. */
async function handOver(context: OperationContext, { backupId }: BackupInput): Promise<void> {
  const placed = await placedDiskOf(context, backupId);
  const secretId = placed?.disk.secretId ?? null;
  if (placed === null || secretId === null) return;
  await context.db.transaction().execute(async (tx) => {
    await updateBackup(tx, backupId, { secret_id: secretId });
    await updateDisk(tx, placed.disk.id, { secret_id: null });
  });
}

async function finish(context: OperationContext, input: BackupInput): Promise<void> {
  await giveBackSource(context, input);
  await releaseBackup(context.db, input.backupId, input.operationId, { status: 'available' });
}

async function fail(context: OperationContext, input: BackupInput, { message }: Failure): Promise<void> {
  await giveBackSource(context, input);
  await releaseBackup(context.db, input.backupId, input.operationId, { status: 'error', fail_reason: message });
}

/** Before the backup has ended, so that who waited for that can delete what it is of. */
async function giveBackSource(context: OperationContext, input: BackupInput): Promise<void> {
  const { snapshot_id } = await needBackup(context, input.backupId);
  await context.db.transaction().execute(async (tx) => {
    const volume = await lockVolumeIfThere(tx, input.volumeId);
    const isOurs = volume?.operation?.id === input.operationId;
    if (isOurs && snapshot_id !== null) await updateSnapshot(tx, snapshot_id, { status: 'available' });
  });
  await finishAsBefore(context, input);
}

async function remove(context: OperationContext, { backupId, requestId }: BackupInput): Promise<void> {
  const backup = await needBackup(context, backupId);
  await removeBackup(context.backups, backupId);
  crashPoint('steps.delete-backup.removed');
  if (backup.secret_id !== null) await context.keys.destroyBackupKey(backup, requestId);
  // Of one that failed on the way.
  await destroyVolumeDisk(context, backupId, requestId);
}
