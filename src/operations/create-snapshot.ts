import { crashPoint } from '#core/crash-point.ts';
import { updateDisk } from '#db/disks.ts';
import { releaseSnapshot, snapshotReaders } from '#db/snapshots.ts';
import { readersOf } from '#db/volumes.ts';
import type { OperationContext } from '#operations/context.ts';
import { copyDisk } from '#operations/create-volume.ts';
import type { Operation } from '#operations/engine.ts';
import { needPlacedDisk, type SnapshotInput } from '#operations/volume-context.ts';
import { destroyVolumeDisk, settleThoseBefore, storeVolumeKey } from '#operations/volume-steps.ts';

/**
 * Create snapshot: what the volume holds at one moment, on a disk of its own beside it, under a key of its own.
 *
 * | step      | effect                                           | compensation                    | a repeat         |
 * |-----------|--------------------------------------------------|---------------------------------|------------------|
 * | wait      | what was begun earlier with the volume has ended | –                               | fine             |
 * | store-key | its secret is stored, `key-stored`               | secret destroyed, row ended     | keeps the secret |
 * | copy      | its disk holds what the volume held, locked      | header overwritten, medium gone | starts over      |
 * | finish    | available                                        | –                               | same             |
 */
export function createSnapshot(context: OperationContext): Operation<SnapshotInput> {
  return {
    name: 'create-snapshot',
    steps: [
      { name: 'wait', run: (input) => waitForEarlier(context, input) },
      storeVolumeKey(context, ({ snapshotId }: SnapshotInput) => snapshotId),
      {
        name: 'copy',
        run: (input) => copy(context, input),
        undo: ({ snapshotId, requestId }) => destroyVolumeDisk(context, snapshotId, requestId),
      },
      { name: 'finish', run: (input) => finish(context, input, { status: 'available' }) },
    ],
    failed: (input) => finish(context, input, { status: 'error' }),
  };
}

/**
 * Delete snapshot. The volume and what was made from it do not depend on it.
 *
 * | step         | effect                                            | compensation | a repeat |
 * |--------------|---------------------------------------------------|--------------|----------|
 * | wait         | what is being made from it has ended              | –            | fine     |
 * | destroy-disk | header overwritten, medium gone, secret destroyed | none         | fine     |
 * | finish       | gone                                              | –            | same     |
 */
export function deleteSnapshot(context: OperationContext): Operation<SnapshotInput> {
  return {
    name: 'delete-snapshot',
    steps: [
      {
        name: 'wait',
        async run({ snapshotId }) {
          await settleThoseBefore(context, await snapshotReaders(context.db, snapshotId));
        },
      },
      {
        name: 'destroy-disk',
        run: ({ snapshotId, requestId }) => destroyVolumeDisk(context, snapshotId, requestId),
      },
      { name: 'finish', run: (input) => finish(context, input, { status: 'deleted', deleted_at: new Date() }) },
    ],
    failed: (input) => finish(context, input, { status: 'error_deleting' }),
  };
}

async function waitForEarlier(context: OperationContext, { volumeId, operationId }: SnapshotInput): Promise<void> {
  await settleThoseBefore(context, await readersOf(context.db, volumeId), operationId);
}

async function copy(context: OperationContext, { snapshotId, volumeId, requestId }: SnapshotInput): Promise<void> {
  const { disk: from } = await needPlacedDisk(context, volumeId);
  const { disk } = await needPlacedDisk(context, snapshotId);
  if (disk.state === 'formatted') return;
  await copyDisk(context, { from, disk, requestId, isNewKey: false });
  crashPoint('steps.create-snapshot.copied');
  await updateDisk(context.db, disk.id, { state: 'formatted' });
}

async function finish(
  { db }: OperationContext,
  { snapshotId, operationId }: SnapshotInput,
  change: Parameters<typeof releaseSnapshot>[3],
): Promise<void> {
  await releaseSnapshot(db, snapshotId, operationId, change);
}
