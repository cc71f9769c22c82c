import { createReadStream } from 'node:fs';
import { mkdir, open, readdir, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { Readable } from 'node:stream';
import { crashPoint } from '#core/crash-point.ts';
import { NightlatchError, notFound } from '#core/errors.ts';
import { type HostPath, type ImageId, isUuid } from '#core/ids.ts';
import type { Image } from '#core/image.ts';
import { imageEncryption } from '#core/image-encryption.ts';
import type { Database } from '#db/database.ts';
import {
  abandonUpload,
  claimUpload,
  deletedImages,
  findImage,
  finishUpload,
  forgetImage,
  listImages,
  markImageDeleted,
  storedImageIds,
} from '#db/images.ts';
import { saveStream } from '#images/builtin/save-stream.ts';
import type { ImageBytes, ImageStore, ImageViewer } from '#images/image-store.ts';
import { inspectImage } from '#images/inspect.ts';

/** Default of Glance's `image_size_cap`. */
export const IMAGE_SIZE_CAP_BYTES = 1024 ** 4;
const PARTIAL = '.partial';
/** Names the store itself as the requester in the audit trail. */
const OURSELVES = 'req-nightlatch-images';

/** Destroys the secret of an image that was deleted. *Repeat*: fine. */
export type DestroyKey = (image: Image, requestId: string) => Promise<void>;
export type FileImageStoreOptions = {
  readonly sizeCapBytes?: number;
  /** Left out: no image has a secret of its own. */
  readonly destroyKey?: DestroyKey;
};

/**
 * Keeps the bytes of each image in a file `<directory>/<image id>`. A file of that name is complete and was checked; an
 * upload is written under another name, and nothing of one that fails stays.
 */
export class FileImageStore implements ImageStore {
  readonly #db: Database;
  readonly #directory: string;
  readonly #sizeCapBytes: number;
  readonly #destroyKey: DestroyKey;

  private constructor(db: Database, directory: string, options: FileImageStoreOptions) {
    this.#db = db;
    this.#directory = directory;
    this.#sizeCapBytes = options.sizeCapBytes ?? IMAGE_SIZE_CAP_BYTES;
    this.#destroyKey = options.destroyKey ?? (async () => {});
  }

  /** Opens the store and removes what a crash left: unfinished uploads, deletions half done, files without an image. */
  static async open(db: Database, directory: string, options: FileImageStoreOptions = {}): Promise<FileImageStore> {
    await mkdir(directory, { recursive: true, mode: 0o700 });
    await abandonUpload(db);
    const kept = new Set<string>(await storedImageIds(db));
    for (const name of await readdir(directory)) {
      const id = name.endsWith(PARTIAL) ? name.slice(0, -PARTIAL.length) : name;
      if (isUuid(id) && !kept.has(name)) await rm(join(directory, name), { force: true });
    }
    const store = new FileImageStore(db, directory, options);
    for (const image of await deletedImages(db)) await store.#forget(image, OURSELVES);
    return store;
  }

  async find(id: ImageId, viewer: ImageViewer): Promise<Image | null> {
    const image = await this.describe(id);
    return image && canSee(image, viewer) ? image : null;
  }

  async findNamed(name: string, viewer: ImageViewer): Promise<Image[]> {
    return (await listImages(this.#db, viewer.projectId)).filter((image) => image.name === name);
  }

  async describe(id: ImageId): Promise<Image | null> {
    return await findImage(this.#db, id);
  }

  async openImage(id: ImageId): Promise<ImageBytes> {
    const image = await findImage(this.#db, id);
    if (image?.status !== 'active' && image?.status !== 'deactivated') throw notFound('The data of image', id);
    const format = image.diskFormat === 'qcow2' ? 'qcow2' : 'raw';
    const isEncrypted = imageEncryption(image.properties) !== null;
    return { format, isEncrypted, open: () => this.#openFile(id) };
  }

  /**
   * Takes the bytes of a queued image and makes it active, once they are durable and checked to be what the image's
   * disk format claims. On failure the image is queued again and nothing of the bytes is left.
   *
   * *Crash*: `open` cleans up. *Throws* conflict, when the image is not queued; image-invalid; too-large, when it is
   * beyond the cap or the disk is full; bad-request, when the stream breaks off.
   */
  async upload(id: ImageId, bytes: Readable): Promise<void> {
    const image = await claimUpload(this.#db, id);
    if (!image) {
      throw new NightlatchError('conflict', { reason: `Image ${id} has data already, or is being uploaded to.` });
    }
    const partial = `${this.#path(id)}${PARTIAL}` as HostPath;
    try {
      await this.#store(image, partial, bytes);
    } catch (error) {
      await rm(partial, { force: true });
      await abandonUpload(this.#db, id);
      throw error;
    }
  }

  /**
   * Removes an image, its bytes, and its secret where it says so. Who reads the bytes now may finish.
   * *Crash*: once it is gone for its users, `open` does the rest. *Throws* not-found; forbidden when it is protected.
   */
  async delete(id: ImageId, requestId: string): Promise<void> {
    const image = await markImageDeleted(this.#db, id, false);
    if (!image) {
      if (!(await findImage(this.#db, id))) throw notFound('Image', id);
      throw new NightlatchError('forbidden', { action: `deleting the protected image ${id}` });
    }
    await this.#forget(image, requestId);
  }

  async discard(id: ImageId, requestId: string): Promise<void> {
    const image = await markImageDeleted(this.#db, id, true);
    if (image) await this.#forget(image, requestId);
  }

  /** The row goes last: it is what the next start finds the rest by. */
  async #forget(image: Image, requestId: string): Promise<void> {
    crashPoint('images.delete.marked');
    await rm(this.#path(image.id), { force: true });
    await this.#destroyKey(image, requestId);
    await forgetImage(this.#db, image.id);
  }

  async #store(image: Image, partial: HostPath, bytes: Readable): Promise<void> {
    if (image.diskFormat === null) throw new Error('an upload was let through without a disk format');
    const saved = await saveStream(bytes, partial, this.#sizeCapBytes);
    const virtualSizeBytes = await inspectImage(image.id, partial, image.diskFormat, imageEncryption(image.properties));
    await rename(partial, this.#path(image.id));
    await syncDirectory(this.#directory);
    crashPoint('images.upload.saved');
    const wanted = await finishUpload(this.#db, image.id, { ...saved, virtualSizeBytes });
    if (wanted) return;
    await rm(this.#path(image.id), { force: true });
    throw notFound('Image', image.id);
  }

  async #openFile(id: ImageId): Promise<Readable> {
    const file = await open(this.#path(id), 'r').catch((error: NodeJS.ErrnoException) => {
      throw error.code === 'ENOENT' ? notFound('The data of image', id) : error;
    });
    return createReadStream('', { fd: file, highWaterMark: 1024 * 1024 });
  }

  #path(id: ImageId): HostPath {
    // The id becomes a file name: whatever else it may be, it is a UUID.
    if (!isUuid(id)) throw notFound('Image', id);
    return join(this.#directory, id) as HostPath;
  }
}

/** Whether a project may see an image: its own, and what others made public or community. */
export function canSee(image: Image, viewer: ImageViewer): boolean {
  if (viewer.isAdmin || image.projectId === viewer.projectId) return true;
  return image.visibility === 'public' || image.visibility === 'community';
}

async function syncDirectory(path: string): Promise<void> {
  await using directory = await open(path, 'r');
  await directory.sync();
}
