import { Readable } from 'node:stream';
import type { Disk } from '#core/disk.ts';
import { NightlatchError } from '#core/errors.ts';
import type { ImageId } from '#core/ids.ts';
import { encryptionProperties } from '#core/image-encryption.ts';
import { updateDisk } from '#db/disks.ts';
import { lockImage, updateImage } from '#db/images.ts';
import type { OperationContext } from '#operations/context.ts';

/** What becoming an image needs of a disk, whatever the disk is of. */

/** How often an upload looks whether it is still wanted. */
const LOOK_EVERY_MS = 500;

/**
 * Makes the secret of a disk that of the image. In one transaction, so that at every instant exactly one of the two answers
 * for it. *Repeat*: fine. *Throws* conflict when the image is gone.
 */
export async function handOverKey({ db }: OperationContext, imageId: ImageId, disk: Disk): Promise<void> {
  const { secretId } = disk;
  if (secretId === null) return;
  await db.transaction().execute(async (tx) => {
    const image = await lockImage(tx, imageId);
    if (!image) throw deleted(imageId);
    const properties = { ...image.properties, ...encryptionProperties(disk.sizeBytes, secretId) };
    await updateImage(tx, image.id, { properties });
    await updateDisk(tx, disk.id, { secret_id: null });
  });
}

/** The bytes, as long as `check`, which is asked now and then, does not throw. */
export function whileWanted(bytes: Readable, check: () => Promise<void>): Readable {
  return Readable.from(checked(bytes, check));
}

async function* checked(bytes: Readable, check: () => Promise<void>): AsyncGenerator<Buffer> {
  let lookAt = Date.now() + LOOK_EVERY_MS;
  for await (const chunk of bytes) {
    yield chunk;
    if (Date.now() < lookAt) continue;
    await check();
    lookAt = Date.now() + LOOK_EVERY_MS;
  }
}

export function deleted(imageId: ImageId): NightlatchError {
  return new NightlatchError('conflict', { reason: `Image ${imageId} was deleted while it was being made.` });
}
