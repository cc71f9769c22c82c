import type { SnapshotId } from '#core/ids.ts';
import { snapshotReaders, updateSnapshot } from '#db/snapshots.ts';
import { releaseVolume, type VolumeChange } from '#db/volumes.ts';
import type { OperationContext } from '#operations/context.ts';
import { copyDisk, wantsNewKey } from '#operations/create-volume.ts';
import type { Failure, Operation } from '#operations/engine.ts';
import { replaceContent } from '#operations/replace-content.ts';
import { needPlacedDisk, needVolume, type VolumeInput } from '#operations/volume-context.ts';
import { settleThoseBefore, tellFailure } from '#operations/volume-steps.ts';

/**
 * Revert volume: it holds what its latest snapshot does, under a key of its own. The snapshot stays.
 *
 * | step                 | effect                                       | compensation             | a repeat |
 * |----------------------|----------------------------------------------|--------------------------|----------|
 * | wait-for-readers     | volumes made from the snapshot are done      | –                        | fine     |
 * | see `replaceContent` | the volume has what the snapshot has         | as it was                | fine     |
 * | finish               | both are available                           | –                        | same     |
 */
export function revertVolume(context: OperationContext): Operation<VolumeInput> {
  return {
    name: 'revert-volume',
    steps: [
      { name: 'wait-for-readers', run: (input) => waitForSnapshot(context, input) },
      ...replaceContent<VolumeInput>(context, {
        async fill(input, { disk }) {
          const { disk: from } = await needPlacedDisk(context, snapshotFrom(input));
          const isNewKey = await wantsNewKey(context, await needVolume(context, input.volumeId));
          await copyDisk(context, { from, disk, requestId: input.requestId, isNewKey });
        },
      }),
      { name: 'finish', run: (input) => giveBack(context, input, {}) },
    ],
    failed: (input, failure) => fail(context, input, failure),
  };
}

function snapshotFrom({ snapshotId, operationId }: VolumeInput): SnapshotId {
  if (snapshotId === undefined) throw new Error(`operation ${operationId} names no snapshot`);
  return snapshotId;
}

async function waitForSnapshot(context: OperationContext, input: VolumeInput): Promise<void> {
  await settleThoseBefore(context, await snapshotReaders(context.db, snapshotFrom(input)));
}

/** Both as one: no snapshot is left `restoring` by a volume that is available. */
async function giveBack({ db }: OperationContext, input: VolumeInput, change: VolumeChange): Promise<void> {
  await db.transaction().execute(async (tx) => {
    const free = { status: 'available', previous_status: null, ...change } as const;
    if (!(await releaseVolume(tx, input.volumeId, input.operationId, free))) return;
    await updateSnapshot(tx, snapshotFrom(input), { status: 'available' });
  });
}

/** The volume holds what it held; its user is told. */
async function fail(context: OperationContext, input: VolumeInput, failure: Failure): Promise<void> {
  // Cinder has no number for it: "unknown", "unknown error".
  await tellFailure(context, input, '000_001', failure);
  await giveBack(context, input, {});
}
