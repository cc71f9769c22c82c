import { badRequest, NightlatchError } from '#core/errors.ts';
import type { ImageId, ProjectId } from '#core/ids.ts';
import type { Image } from '#core/image.ts';
import { imageEncryption } from '#core/image-encryption.ts';
import type { ImageStore, ImageViewer } from '#images/image-store.ts';

/** An image that a server can boot from. */
export type BootImage = {
  readonly id: ImageId;
  readonly name: string;
  readonly virtualSizeBytes: number;
  readonly minDiskGib: number;
  readonly minRamMib: number;
  readonly properties: Readonly<Record<string, string>>;
};

/**
 * The image, when it is there for the viewer and ready, and a server of that project can have its key.
 * @throws bad-request (400) with Nova's texts; encrypted-image-refused (403).
 */
export async function getBootImage(
  images: ImageStore,
  id: string,
  viewer: ImageViewer,
  owner: ProjectId = viewer.projectId,
): Promise<BootImage> {
  const image = await images.find(id as ImageId, viewer);
  if (!image) throw badRequest('Can not find requested image');
  const bootable = asBootImage(image);
  if (!bootable) throw badRequest(`Image ${id} is not active.`);
  checkKey(image, owner);
  return bootable;
}

/** As `getBootImage`, for an image that may be gone since a server was made from it: null then. */
export async function findBootImage(images: ImageStore, id: ImageId, viewer: ImageViewer): Promise<BootImage | null> {
  const image = await images.find(id, viewer);
  return image ? asBootImage(image) : null;
}

function asBootImage(image: Image): BootImage | null {
  if (image.status !== 'active' || image.virtualSizeBytes === null) return null;
  return {
    id: image.id,
    name: image.name ?? image.id,
    virtualSizeBytes: image.virtualSizeBytes,
    minDiskGib: image.minDiskGib,
    minRamMib: image.minRamMib,
    properties: image.properties,
  };
}

/** A key is a project's own: an image that others may see does not give them its key. */
function checkKey(image: Image, owner: ProjectId): void {
  const encryption = imageEncryption(image.properties);
  if (encryption === null) return;
  const refuse = (reason: string) => new NightlatchError('encrypted-image-refused', { image: image.id, reason });
  if (image.projectId !== owner) throw refuse('it is encrypted, and its key belongs to another project');
  if (encryption.secretId === null) throw refuse('it is encrypted and has no os_encrypt_key_id');
}
