import { createWriteStream } from 'node:fs';
import { open, readdir, rename, rm } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { type FileFormat, fileFormats } from '#core/disk.ts';
import { type HostPath, type ImageId, isUuid } from '#core/ids.ts';
import { run } from '#host/exec.ts';
import { hasCode, ignoring, makeFolder, removeFile, syncFile, syncFolder, tellingDiskFull } from '#host/files.ts';
import type { ImageBytes } from '#host/host-agent.ts';

/** An image on a host. `encrypted`: the bytes are as they were uploaded, in this format; else it is a raw file. */
export type CachedImage =
  | { readonly encrypted: false; readonly path: HostPath }
  | { readonly encrypted: true; readonly path: HostPath; readonly format: FileFormat };

/**
 * Images on a host: what disks start from, by copy or as a backing file. One that is not encrypted is a sparse raw file
 * `<directory>/<image id>`, as readable as its owner uploaded it; an encrypted one stays so, `<image id>.luks.<format>`.
 */
export class ImageCache {
  readonly #directory: string;
  readonly #arriving = new Map<ImageId, Promise<void>>();

  constructor(directory: HostPath) {
    this.#directory = directory;
  }

  /** The image, when it is here. */
  async find(imageId: ImageId): Promise<CachedImage | null> {
    const path = this.#pathOf(imageId, null);
    if (await isFile(path)) return { encrypted: false, path };
    for (const format of fileFormats) {
      const encrypted = this.#pathOf(imageId, format);
      if (await isFile(encrypted)) return { encrypted: true, path: encrypted, format };
    }
    return null;
  }

  /**
   * On return the image is here, whole and durable. It is opened only when it was not.
   * *Repeat*: fine; callers at the same time share one transfer. *Crash*: leaves a `.part` file that a repeat replaces.
   */
  async bring(imageId: ImageId, bytes: ImageBytes): Promise<void> {
    const arriving = this.#arriving.get(imageId) ?? this.#fetch(imageId, bytes);
    this.#arriving.set(imageId, arriving);
    try {
      await arriving;
    } finally {
      this.#arriving.delete(imageId);
    }
  }

  /** Removes every image that is not to be kept. *Repeat*: fine. An image that is arriving is left alone. */
  async prune(keep: ReadonlySet<ImageId>): Promise<void> {
    const names = await readdir(this.#directory).catch((error: unknown) => ignoring('ENOENT')(error) ?? []);
    for (const name of names) {
      const imageId = name.split('.')[0] as ImageId;
      if (isUuid(imageId) && !keep.has(imageId) && !this.#arriving.has(imageId))
        await removeFile(join(this.#directory, name));
    }
  }

  async #fetch(imageId: ImageId, { format, isEncrypted, open: openContent }: ImageBytes): Promise<void> {
    const path = this.#pathOf(imageId, isEncrypted ? format : null);
    if (await isFile(path)) return;
    const doing = `Copying image ${imageId} to the host`;
    const received = `${path}.part`;
    const converted = `${path}.raw.part`;
    try {
      await tellingDiskFull(doing, this.#directory, async () => {
        await makeFolder(this.#directory);
        await pipeline(await openContent(), createWriteStream(received, { mode: 0o600 }));
      });
      // The format is said, never probed: what an image claims to be was checked when it was uploaded.
      if (!isEncrypted) await run('qemu-img', ['convert', '-f', format, '-O', 'raw', received, converted], { doing });
      const whole = isEncrypted ? received : converted;
      await syncFile(whole);
      await rename(whole, path);
      await syncFolder(dirname(path));
    } finally {
      await removeFile(received);
      await rm(converted, { force: true });
    }
  }

  #pathOf(imageId: ImageId, encryptedFormat: FileFormat | null): HostPath {
    return join(this.#directory, encryptedFormat === null ? imageId : `${imageId}.luks.${encryptedFormat}`) as HostPath;
  }
}

async function isFile(path: string): Promise<boolean> {
  try {
    await using file = await open(path, 'r');
    return (await file.stat()).isFile();
  } catch (error) {
    if (hasCode(error, 'ENOENT')) return false;
    throw error;
  }
}
