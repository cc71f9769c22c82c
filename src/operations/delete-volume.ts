import { diskStandings } from '#core/disk.ts';
import { badRequest } from '#core/errors.ts';
import type { VolumeId } from '#core/ids.ts';
import { snapshotsOf } from '#db/snapshots.ts';
import { claimVolume, readersOf } from '#db/volumes.ts';
import type { OperationContext } from '#operations/context.ts';
import { type Operation, pendingOn } from '#operations/engine.ts';

import { failVolume, finishVolume, type VolumeInput } from '#operations/volume-context.ts';
import { destroyVolumeDisk, settleThoseBefore } from '#operations/volume-steps.ts';

/**
 * Delete volume. Its time does not grow with the volume, and a key that is gone already is no obstacle.
 *
 * | step         | effect                                            | compensation | a repeat |
 * |--------------|---------------------------------------------------|--------------|----------|
 * | wait         | what is being made from it has ended              | –            | fine     |
 * | destroy-disk | header overwritten, medium gone, secret destroyed; also of a disk that another operation left | none: there is no way back from here | fine |
 * | finish       | gone                                              | –            | same     |
 *
 * When a step keeps failing it ends in error_deleting, and can be deleted again once an admin has reset its status.
 */
export function deleteVolume(context: OperationContext): Operation<VolumeInput> {
  return {
    name: 'delete-volume',
    steps: [
      waitForReaders(context),
      { name: 'destroy-disk', run: (input) => destroyDisks(context, input) },
      { name: 'finish', run: (input) => finishVolume(context, input, { deleted_at: new Date() }) },
    ],
    failed: (input) => failVolume(context, input, 'error_deleting'),
  };
}

async function destroyDisks(context: OperationContext, { volumeId, requestId }: VolumeInput): Promise<void> {
  for (const which of diskStandings) await destroyVolumeDisk(context, volumeId, requestId, which);
}

/**
 * Claims a volume to delete it, and starts that. *Throws* volume-state; bad-request while it has snapshots.
 */
export async function beginVolumeDeletion(
  { db, engine }: OperationContext,
  volumeId: VolumeId,
  requestId: string,
  action: 'delete' | 'force-delete',
): Promise<void> {
  const operation = pendingOn<VolumeInput>('delete-volume', { volumeId, requestId });
  await claimVolume(db, volumeId, action, operation, async (tx) => {
    const left = await snapshotsOf(tx, volumeId);
    if (left.length > 0) {
      throw badRequest(
        `Invalid volume: Volume ${volumeId} still has ${left.length} dependent snapshots. Delete them first, or use cascade.`,
      );
    }
  });
  await engine.begin(operation);
}

/** Waits for what is being made from a volume: until then its disk stays as and where it is. */
export function waitForReaders(context: OperationContext) {
  return {
    name: 'wait',
    async run({ volumeId }: Pick<VolumeInput, 'volumeId'>) {
      await settleThoseBefore(context, await readersOf(context.db, volumeId));
    },
  };
}
