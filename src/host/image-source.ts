import { describeError, NightlatchError } from '#core/errors.ts';
import type { ImageId } from '#core/ids.ts';
import type { BlockNode } from '#host/fuse-exports.ts';
import type { DiskKeys } from '#host/host-agent.ts';
import type { CachedImage } from '#host/image-cache.ts';
import type { EncryptedSource } from '#host/storage/fill.ts';

/**
 * Lets `copy` read an encrypted image with its key; whatever it throws is told as what it means for the image.
 * *Throws* image-key-unavailable when its key is not among `keys`; image-wrong-key.
 */
export async function withImageSource(
  imageId: ImageId,
  image: CachedImage & { readonly encrypted: true },
  keys: DiskKeys,
  copy: (source: EncryptedSource) => Promise<void>,
): Promise<void> {
  const key = keys.get(imageId);
  // Such as an image that was deleted, with its key, after it was brought here.
  if (!key) throw new NightlatchError('image-key-unavailable', { image: imageId, reason: 'it was deleted' });
  try {
    await copy({ node: imageNode(image), key });
  } catch (error) {
    if (!/Invalid password/.test(describeError(error))) throw error;
    throw new NightlatchError('image-wrong-key', { image: imageId }, { cause: error });
  }
}

function imageNode({ path, format }: CachedImage & { readonly encrypted: true }): BlockNode {
  const file = { driver: 'file', filename: path };
  if (format === 'raw') return { driver: 'luks', 'key-secret': 'key', file };
  return { driver: 'qcow2', encrypt: { format: 'luks', 'key-secret': 'key' }, file };
}
