import { type DiskId, type ImageId, newId } from '#core/ids.ts';
import type { Image } from '#core/image.ts';
import { encryptionProperties, withoutEncryption } from '#core/image-encryption.ts';
import type { Queryable } from '#db/database.ts';
import { insertDisks, liveDiskOf } from '#db/disks.ts';
import { insertImage } from '#db/images.ts';
import type { Volume } from '#db/volumes.ts';
import { NOT_INHERITED } from '#operations/plan-image.ts';
import type { VolumeImageRequest } from '#operations/volume-operations.ts';

/** What a volume says of its image that is no property of an image. See Cinder's `glance_core_properties`. */
const CORE = new Set([
  ...['checksum', 'container_format', 'disk_format', 'image_name', 'image_id'],
  ...['min_disk', 'min_ram', 'name', 'size'],
]);

/**
 * Writes the rows of an image of a volume, still without data, and of the disk that is to become its data. Both belong to the
 * volume's project, whoever asks.
 */
export async function planVolumeImage(
  tx: Queryable,
  volume: Volume,
  imageId: ImageId,
  request: VolumeImageRequest,
): Promise<Image> {
  const like = await liveDiskOf(tx, volume.id);
  if (!like) throw new Error(`volume ${volume.id} has no disk`);
  const isEncrypted = like.encrypted === true && request.encryption === 'new';
  const image = await insertImage(tx, {
    id: imageId,
    projectId: volume.project_id,
    name: request.name,
    visibility: request.visibility,
    diskFormat: request.diskFormat,
    containerFormat: 'bare',
    minDiskGib: volume.size_gib,
    minRamMib: Number(volume.image_metadata?.min_ram ?? 0) || 0,
    properties: { ...inherited(volume), ...(isEncrypted ? encryptionProperties(like.size_bytes) : {}) },
    tags: [],
    protected: request.isProtected,
    hidden: false,
  });
  if (!image) throw new Error(`there is an image ${imageId} already`);
  await insertDisks(tx, [
    {
      id: newId<DiskId>(),
      owner_id: imageId,
      project_id: volume.project_id,
      role: 'volume-image',
      ordinal: 0,
      size_bytes: like.size_bytes,
      storage: request.diskFormat,
      encrypted: isEncrypted,
      encryption: isEncrypted ? 'luks' : null,
      image_id: null,
      host: like.host,
      backend: null,
      state: 'absent',
      secret_id: null,
    },
  ]);
  return image;
}

/** What the volume still says of the image that it was made from. */
function inherited({ image_metadata: metadata }: Volume): Record<string, string> {
  const own = Object.entries(withoutEncryption(metadata ?? {}));
  return Object.fromEntries(own.filter(([name]) => !CORE.has(name) && !NOT_INHERITED.has(name)));
}
