import { crashPoint } from '#core/crash-point.ts';
import type { ImageId } from '#core/ids.ts';
import { updateDisk } from '#db/disks.ts';
import type { OperationContext } from '#operations/context.ts';
import { copyDisk, wantsNewKey } from '#operations/create-volume.ts';
import { waitForReaders } from '#operations/delete-volume.ts';
import type { Failure, Operation } from '#operations/engine.ts';
import { deleted, handOverKey, whileWanted } from '#operations/image-data.ts';
import { finishAsBefore, needPlacedDisk, needVolume, type VolumeInput } from '#operations/volume-context.ts';
import { destroyVolumeDisk, storeVolumeKey, tellFailure } from '#operations/volume-steps.ts';

/**
 * Upload volume: what it holds at one moment becomes an image. The rows of the image and of the disk that becomes its data
 * are there (`planVolumeImage`). The image of an encrypted volume is encrypted with a key of its own, and at no time does it
 * lie anywhere in clear.
 *
 * | step      | effect                                                  | compensation                    | a repeat         |
 * |-----------|---------------------------------------------------------|---------------------------------|------------------|
 * | wait      | what is being made from the volume has ended            | the image is gone, unless it is active, and the disk with it | fine |
 * | store-key | the image's secret is stored                            | as above: it is destroyed       | keeps the secret |
 * | copy      | a disk holds what the volume held, both locked          | as above: medium gone           | starts over      |
 * | hand-over | the image names the secret, the disk no longer does     | as above: it goes with the image | finds it done   |
 * | upload    | the image is active                                     | as above                        | starts over, or finds it active |
 * | remove    | the disk is gone                                        | none                            | fine             |
 * | finish    | the volume has the status it had                        | –                               | same             |
 */
export function uploadVolume(context: OperationContext): Operation<VolumeInput> {
  return {
    name: 'upload-volume',
    steps: [
      { ...waitForReaders(context), undo: (input) => discard(context, input) },
      { name: 'store-key', run: (input) => storeVolumeKey(context, imageFrom).run(input) },
      { name: 'copy', run: (input) => copy(context, input) },
      { name: 'hand-over', run: (input) => handOver(context, input) },
      { name: 'upload', run: (input) => upload(context, input) },
      { name: 'remove', run: (input) => destroyVolumeDisk(context, imageFrom(input), input.requestId) },
      { name: 'finish', run: (input) => finishAsBefore(context, input) },
    ],
    failed: (input, failure) => fail(context, input, failure),
  };
}

export function imageFrom({ imageId, operationId }: VolumeInput): ImageId {
  if (imageId === undefined) throw new Error(`operation ${operationId} names no image`);
  return imageId;
}

/** The image goes first: a key that it names is destroyed with it, not with the disk. */
async function discard(context: OperationContext, input: VolumeInput): Promise<void> {
  const image = await context.images.describe(imageFrom(input));
  if (image && image.status !== 'active') await context.images.discard(image.id, input.requestId);
  await destroyVolumeDisk(context, imageFrom(input), input.requestId);
}

async function copy(context: OperationContext, input: VolumeInput): Promise<void> {
  const volume = await needVolume(context, input.volumeId);
  const { disk: from } = await needPlacedDisk(context, input.volumeId);
  const { disk } = await needPlacedDisk(context, imageFrom(input));
  if (disk.state === 'formatted') return;
  await copyDisk(context, { from, disk, requestId: input.requestId, isNewKey: await wantsNewKey(context, volume) });
  crashPoint('steps.upload-volume.copied');
  await updateDisk(context.db, disk.id, { state: 'formatted' });
}

async function handOver(context: OperationContext, input: VolumeInput): Promise<void> {
  const { disk } = await needPlacedDisk(context, imageFrom(input));
  await handOverKey(context, imageFrom(input), disk);
  crashPoint('steps.upload-volume.handed-over');
}

async function upload(context: OperationContext, input: VolumeInput): Promise<void> {
  const imageId = imageFrom(input);
  const image = await context.images.describe(imageId);
  if (!image) throw deleted(imageId);
  if (image.status === 'active') return;
  const { disk, agent } = await needPlacedDisk(context, imageId);
  const checkThere = async () => {
    if ((await context.images.describe(imageId)) === null) throw deleted(imageId);
  };
  await context.images.upload(imageId, whileWanted(await agent.openMedium(disk), checkThere));
}

/** The volume is as it was; its user is told. */
async function fail(context: OperationContext, input: VolumeInput, failure: Failure): Promise<void> {
  // Cinder's numbers: "copy volume to image", "unknown error".
  await tellFailure(context, input, '003_001', failure);
  await finishAsBefore(context, input);
}
