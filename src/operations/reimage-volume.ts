import { updateVolume } from '#db/volumes.ts';
import type { OperationContext } from '#operations/context.ts';
import { fillAnew } from '#operations/create-volume.ts';
import type { Failure, Operation } from '#operations/engine.ts';
import { replaceContent } from '#operations/replace-content.ts';
import { imageFrom } from '#operations/upload-volume.ts';
import { finishAsBefore, finishVolume, needVolume, type VolumeInput } from '#operations/volume-context.ts';
import { tellFailure } from '#operations/volume-steps.ts';

/**
 * Reimage volume: it holds what an image does, under a new key.
 *
 * | step                 | effect                                        | compensation | a repeat |
 * |----------------------|-----------------------------------------------|--------------|----------|
 * | see `replaceContent` | the volume has what the image has, and says so | as it was   | fine     |
 * | finish               | the status it had; available, when that was error | –        | same     |
 */
export function reimageVolume(context: OperationContext): Operation<VolumeInput> {
  return {
    name: 'reimage-volume',
    steps: [
      ...replaceContent<VolumeInput>(context, {
        columns: (input) => ({ image_id: imageFrom(input) }),
        async fill(input, coming) {
          const imageId = imageFrom(input);
          await coming.agent.cacheImage(imageId, await context.images.openImage(imageId));
          await fillAnew(context, coming, { kind: 'image', imageId }, input.requestId);
        },
        async also(tx, { volumeId, imageMetadata }) {
          await updateVolume(tx, volumeId, { image_metadata: JSON.stringify(imageMetadata ?? {}), bootable: true });
        },
      }),
      { name: 'finish', run: (input) => finish(context, input) },
    ],
    failed: (input, failure) => fail(context, input, failure),
  };
}

async function finish(context: OperationContext, input: VolumeInput): Promise<void> {
  const { previous_status } = await needVolume(context, input.volumeId);
  if (previous_status !== 'error') return await finishAsBefore(context, input);
  await finishVolume(context, input, { status: 'available', previous_status: null });
}

/** The volume holds what it held; its user is told. */
async function fail(context: OperationContext, input: VolumeInput, failure: Failure): Promise<void> {
  // Cinder's numbers: "reimage volume", "unknown error".
  await tellFailure(context, input, '016_001', failure);
  await finishAsBefore(context, input);
}
