import { createWriteStream } from 'node:fs';
import { open, readdir, rename, rm } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import type { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { type HostPath, type ImageId, isUuid } from '#core/ids.ts';
import { run } from '#host/exec.ts';
import { hasCode, ignoring, makeFolder, removeFile, syncFolder, tellingDiskFull } from '#host/files.ts';

/**
 * Images on a host, each as one sparse raw file `<directory>/<image id>`: what disks start from, by copy or as a
 * backing file. Images are not guest data; they lie here as their owner uploaded them.
 */
export class ImageCache {
  readonly #directory: string;
  readonly #arriving = new Map<ImageId, Promise<void>>();

  constructor(directory: HostPath) {
    this.#directory = directory;
  }

  pathOf(imageId: ImageId): HostPath {
    return join(this.#directory, imageId) as HostPath;
  }

  /**
   * On return the image is here, whole and durable. `open` is called only when it was not.
   * *Repeat*: fine; callers at the same time share one transfer. *Crash*: leaves a `.part` file that a repeat replaces.
   */
  async bring(imageId: ImageId, format: 'raw' | 'qcow2', openContent: () => Promise<Readable>): Promise<void> {
    const arriving = this.#arriving.get(imageId) ?? this.#fetch(imageId, format, openContent);
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

  async #fetch(imageId: ImageId, format: 'raw' | 'qcow2', openContent: () => Promise<Readable>): Promise<void> {
    const path = this.pathOf(imageId);
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
      await run('qemu-img', ['convert', '-f', format, '-O', 'raw', received, converted], { doing });
      await syncFile(converted);
      await rename(converted, path);
      await syncFolder(dirname(path));
    } finally {
      await removeFile(received);
      await rm(converted, { force: true });
    }
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

async function syncFile(path: string): Promise<void> {
  await using file = await open(path, 'r+');
  await file.sync();
}
