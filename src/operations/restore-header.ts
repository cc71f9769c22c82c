import { crashPoint } from '#core/crash-point.ts';
import type { Disk } from '#core/disk.ts';
import { NightlatchError } from '#core/errors.ts';
import type { ServerId } from '#core/ids.ts';
import type { OperationContext } from '#operations/context.ts';
import { waitForReaders } from '#operations/delete-volume.ts';
import type { Failure, Operation } from '#operations/engine.ts';
import { finishAsBefore, needPlacedDisk, type VolumeInput } from '#operations/volume-context.ts';
import { tellFailure, unlessOpen } from '#operations/volume-steps.ts';

/** Cinder has no number for it. */
const UNKNOWN = '001_001';

/**
 * Restore header: writes a kept header back to a volume that nobody has open.
 *
 * | step    | effect                                                        | compensation                    | a repeat |
 * |---------|---------------------------------------------------------------|---------------------------------|----------|
 * | wait    | what is being made from it has ended                          | –                               | fine     |
 * | restore | the header is that of the version; locked, the lease closed   | none: what lay there, if it was a header, is kept as a version of its own | fine |
 * | finish  | the status it had                                             | –                               | same     |
 */
export function restoreHeader(context: OperationContext): Operation<VolumeInput> {
  return {
    name: 'restore-header',
    steps: [
      waitForReaders(context),
      { name: 'restore', run: (input) => restore(context, input) },
      { name: 'finish', run: (input) => finishAsBefore(context, input) },
    ],
    failed: (input, failure) => fail(context, input, failure),
  };
}

function restore(context: OperationContext, input: VolumeInput): Promise<void> {
  const { volumeId, requestId, headerVersion = null } = input;
  return unlessOpen(context, volumeId, async (guest) => {
    const { disk, agent } = await needPlacedDisk(context, volumeId);
    if (guest !== null) throw openIn(guest.server.id, disk);
    try {
      await context.keys.lend([disk], 'rekey', requestId, (keys) => agent.restoreHeader(disk, headerVersion, keys));
      crashPoint('steps.restore-header.restored');
    } finally {
      await context.keys.close([disk], requestId);
    }
  });
}

/** What is thrown when a guest has the volume whose header is to be restored. */
export function openIn(server: ServerId, { id, ownerId }: Disk): NightlatchError {
  const doing = `Restoring the header of volume ${ownerId}`;
  return new NightlatchError('disk-in-use', { doing, disk: id, reason: `server ${server} runs with it` });
}

async function fail(context: OperationContext, input: VolumeInput, failure: Failure): Promise<void> {
  await tellFailure(context, input, UNKNOWN, failure);
  await finishAsBefore(context, input);
}
