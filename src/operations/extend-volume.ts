import { crashPoint } from '#core/crash-point.ts';
import { GIB } from '#core/sizes.ts';
import { updateDisk } from '#db/disks.ts';
import { updateVolume } from '#db/volumes.ts';
import type { DiskKeys } from '#host/host-agent.ts';
import type { OperationContext } from '#operations/context.ts';
import { waitForReaders } from '#operations/delete-volume.ts';
import type { Failure, Operation } from '#operations/engine.ts';
import { failVolume, finishAsBefore, needPlacedDisk, type VolumeInput } from '#operations/volume-context.ts';
import { tellFailure, unlessOpen } from '#operations/volume-steps.ts';

/**
 * Extend volume, attached or not. A guest that has it sees it grow.
 *
 * | step   | effect                                       | compensation | a repeat |
 * |--------|----------------------------------------------|--------------|----------|
 * | wait   | what is being made from it has ended         | –            | fine     |
 * | grow   | its disk has the new size, and says so       | none: what a failure leaves is as large as before or larger, and can be extended again | fine |
 * | finish | the status it had                            | –            | same     |
 */
export function extendVolume(context: OperationContext): Operation<VolumeInput> {
  return {
    name: 'extend-volume',
    steps: [
      waitForReaders(context),
      { name: 'grow', run: (input) => grow(context, input) },
      { name: 'finish', run: (input) => finishAsBefore(context, input) },
    ],
    failed: (input, failure) => fail(context, input, failure),
  };
}

/** What this host cannot do was not begun. */
async function fail(context: OperationContext, input: VolumeInput, failure: Failure): Promise<void> {
  // Cinder's number: "extend volume", "unknown error".
  await tellFailure(context, input, '007_001', failure);
  if (failure.code === 'not-implemented') await finishAsBefore(context, input);
  else await failVolume(context, input, 'error_extending');
}

async function grow(context: OperationContext, { volumeId, requestId, sizeGib }: VolumeInput): Promise<void> {
  if (sizeGib === undefined) throw new Error(`an extend of volume ${volumeId} names no size`);
  const { disk, agent } = await needPlacedDisk(context, volumeId);
  const larger = { ...disk, sizeBytes: sizeGib * GIB };
  await unlessOpen(context, volumeId, async (guest) => {
    const growDisk = (keys: DiskKeys) => agent.growDisk(larger, disk.sizeBytes, keys, guest?.server.id ?? null);
    await context.keys.lend([disk], guest === null ? 'create' : 'run', requestId, growDisk);
    crashPoint('steps.extend-volume.grown');
    if (guest === null) await context.keys.close([disk], requestId);
  });
  await context.db.transaction().execute(async (tx) => {
    await updateDisk(tx, disk.id, { size_bytes: larger.sizeBytes });
    await updateVolume(tx, volumeId, { size_gib: sizeGib });
  });
}
