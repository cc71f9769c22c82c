import { randomUUID } from 'node:crypto';
import { NightlatchError } from '#core/errors.ts';
import type { ImageId } from '#core/ids.ts';
import type { Images } from '#host/storage/rbd/images.ts';
import type { BackingImage } from '#host/storage/storage-driver.ts';

const PREFIX = 'cached-';

/** Images in a pool that disks are cloned from, `cached-<image id>`: each is brought there once, and then shared. */
export class CachedImages {
  readonly #images: Images;
  readonly #pool: string;
  readonly #arriving = new Map<ImageId, Promise<void>>();

  constructor(images: Images, pool: string) {
    this.#images = images;
    this.#pool = pool;
  }

  /** Makes `clone` of an image. *Crash*: may leave the image, or a part of it that `prune` removes. */
  async clone(image: BackingImage, clone: string, doing: string): Promise<void> {
    await this.#bring(image, doing);
    await this.#images.clone({ pool: this.#pool, image: PREFIX + image.imageId }, clone, doing);
  }

  /**
   * Those that disks share go to the trash, and from there with the last of these. What cannot be removed now, because another host
   * brings or clones it or the cluster does not answer, is removed by whoever prunes next: nobody's deletion waits for it.
   */
  async prune(keep: ReadonlySet<ImageId>): Promise<void> {
    const doing = `Looking for images in pool ${this.#pool}`;
    for (const name of await this.#images.list(doing).catch(passingOver([]))) {
      const [imageId] = name.slice(PREFIX.length).split('.');
      const isKept = keep.has(imageId as ImageId) || this.#arriving.has(imageId as ImageId);
      if (name.startsWith(PREFIX) && !isKept) await this.#images.remove(name, doing).catch(passingOver(undefined));
    }
  }

  /** Callers at the same time share one transfer; of two hosts the first to end it wins. */
  async #bring(image: BackingImage, doing: string): Promise<void> {
    const { imageId } = image;
    const arriving = this.#arriving.get(imageId) ?? this.#import(image, doing);
    this.#arriving.set(imageId, arriving);
    try {
      await arriving;
    } finally {
      this.#arriving.delete(imageId);
    }
  }

  async #import({ imageId, path }: BackingImage, doing: string): Promise<void> {
    const name = PREFIX + imageId;
    if ((await this.#images.find(name, doing)) !== null) return;
    const part = `${name}.${randomUUID()}`;
    try {
      await this.#images.importFile(path, part, doing);
      await this.#images.rename(part, name, doing);
    } finally {
      await this.#images.remove(part, doing);
    }
  }
}

const PASSING: readonly string[] = ['disk-in-use', 'cluster-silent'];

function passingOver<T>(instead: T): (error: unknown) => T {
  return (error) => {
    if (error instanceof NightlatchError && PASSING.includes(error.code)) return instead;
    throw error;
  };
}
