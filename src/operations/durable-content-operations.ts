import { badRequest } from '#core/errors.ts';
import { type ImageId, newId, type SnapshotId, type VolumeId } from '#core/ids.ts';
import type { Image } from '#core/image.ts';
import type { Queryable } from '#db/database.ts';
import { liveDiskOf } from '#db/disks.ts';
import { lockSnapshot, snapshotsOf, updateSnapshot } from '#db/snapshots.ts';
import { claimVolume, type Volume } from '#db/volumes.ts';
import type { OperationContext } from '#operations/context.ts';
import { type Operation, pendingOn } from '#operations/engine.ts';
import { checkCanBeRead, checkIsFree } from '#operations/plan-volume.ts';
import { planVolumeImage } from '#operations/plan-volume-image.ts';
import { reimageVolume } from '#operations/reimage-volume.ts';
import { revertVolume } from '#operations/revert-volume.ts';
import type { Requester } from '#operations/server-operations.ts';
import { uploadVolume } from '#operations/upload-volume.ts';
import type { VolumeInput } from '#operations/volume-context.ts';
import type { ContentOperations, ReimageRequest, VolumeImageRequest } from '#operations/volume-operations.ts';

/** Every operation on all of a volume's content. */
export function contentOperations(context: OperationContext): Operation<VolumeInput>[] {
  return [uploadVolume(context), revertVolume(context), reimageVolume(context)];
}

/** Sets operations on the content of volumes going on the durable engine. */
export class DurableContentOperations implements ContentOperations {
  readonly #context: OperationContext;

  constructor(context: OperationContext) {
    this.#context = context;
  }

  async upload(id: VolumeId, request: VolumeImageRequest, { requestId }: Requester): Promise<Image> {
    const imageId = newId<ImageId>();
    const operation = pendingOn<VolumeInput>('upload-volume', { volumeId: id, requestId, imageId });
    let image: Image | null = null;
    await claimVolume(this.#context.db, id, 'upload', operation, async (tx, volume) => {
      checkCanBeRead(volume, request.force);
      image = await planVolumeImage(tx, volume, imageId, request);
    });
    await this.#context.engine.begin(operation);
    if (!image) throw new Error('an image was claimed and not written');
    return image;
  }

  async revert(id: VolumeId, snapshotId: SnapshotId, { requestId }: Requester): Promise<void> {
    const operation = pendingOn<VolumeInput>('revert-volume', { volumeId: id, requestId, snapshotId });
    await claimVolume(this.#context.db, id, 'revert', operation, async (tx, volume) => {
      await checkLatest(tx, volume, snapshotId);
      checkIsFree(await lockSnapshot(tx, snapshotId), 'revert a volume to');
      await updateSnapshot(tx, snapshotId, { status: 'restoring' });
    });
    await this.#context.engine.begin(operation);
  }

  async reimage(id: VolumeId, request: ReimageRequest, { requestId }: Requester): Promise<void> {
    const { imageId, imageMetadata, mustEncrypt, evenReserved } = request;
    const particulars = { volumeId: id, requestId, imageId, imageMetadata };
    const operation = pendingOn<VolumeInput>('reimage-volume', particulars);
    const action = evenReserved ? 'reimage-reserved' : 'reimage';
    await claimVolume(this.#context.db, id, action, operation, async (tx) => {
      const disk = await liveDiskOf(tx, id);
      if (!disk || disk.host === null) {
        throw badRequest(`Invalid volume: Volume ${id} was never made, so that nothing can be put onto it. Delete it.`);
      }
      if (mustEncrypt && disk.encryption === null) {
        throw badRequest(
          `Image ${imageId} is encrypted: its data would lie on volume ${id} in clear. Retype the volume to an encrypted type first.`,
        );
      }
    });
    await this.#context.engine.begin(operation);
  }
}

/** @throws bad-request with Cinder's words. */
async function checkLatest(tx: Queryable, volume: Volume, snapshotId: SnapshotId): Promise<void> {
  const latest = (await snapshotsOf(tx, volume.id)).at(-1);
  if (!latest) throw badRequest(`Volume ${volume.id} doesn't have any snapshots.`);
  if (latest.id !== snapshotId) {
    throw badRequest(
      `Specified snapshot ${snapshotId} is None or not the latest one of volume ${volume.id}. The latest is ${latest.id}.`,
    );
  }
  if (latest.size_gib !== volume.size_gib) {
    throw badRequest(
      `Can't revert volume ${volume.id} to its latest snapshot ${latest.id}. The volume size must be equal to the snapshot size.`,
    );
  }
}
