import { constants } from 'node:fs';
import { copyFile, open } from 'node:fs/promises';
import { dirname } from 'node:path';
import type { DiskSpec } from '#core/disk.ts';
import { NightlatchError } from '#core/errors.ts';
import type { HostPath } from '#core/ids.ts';
import { run } from '#host/exec.ts';
import { hasCode, readUpTo, syncFolder, tellingDiskFull, writeAll } from '#host/files.ts';
import { pathOf } from '#host/storage/attachment.ts';
import { copyDiskFile } from '#host/storage/copy-file.ts';
import { diskFile, makeDiskFolder, removeDiskFile } from '#host/storage/disk-file.ts';
import { headerInFile } from '#host/storage/header-file.ts';
import { growImage } from '#host/storage/qcow2/grow.ts';
import {
  type EncryptionHeaderPointer,
  findEncryptionHeader,
  LONGEST_QCOW2_HEADER,
} from '#host/storage/qcow2/header.ts';
import { Skeleton, skeletonPassphrase } from '#host/storage/qcow2/skeleton.ts';
import type { FileAttachment, HeaderRegion, StorageDriver } from '#host/storage/storage-driver.ts';

/** Bytes zeroed at the start of the skeleton's encryption header: its magic, volume key digest and key slots. */
const HEADER_START_BYTES = 4096;
const QEMU_IMG_TIMEOUT_MS = 60_000;

/**
 * Keeps each disk as a qcow2 image `<disks directory>/<server id>/<name>`; a disk from an image is an overlay over the
 * raw image in the cache.
 *
 * An encrypted one starts as a copy of a skeleton (see `Skeleton`) whose header is wiped: like a fresh raw disk it has
 * room for a header and none in it.
 */
export function qcow2Storage({
  disksDirectory,
  cacheDirectory,
  overlays = true,
}: {
  readonly disksDirectory: HostPath;
  /** Where the skeleton is kept; the images' backing files may lie there too. */
  readonly cacheDirectory: HostPath;
  /** Whether a disk from an image is an overlay over it, or a copy of its own. */
  readonly overlays?: boolean;
}): StorageDriver<FileAttachment> {
  const skeleton = Skeleton.in(cacheDirectory);
  const fileOf = (disk: DiskSpec) => diskFile(disksDirectory, disk);
  return {
    capabilities: {
      formats: ['luks'],
      copyOnWrite: overlays ? [null, 'luks'] : [],
      zeroUntilWritten: true,
      blockDevice: false,
    },

    async prepare() {
      await skeleton.path();
    },

    async create(disk, backing) {
      if (backing !== null && !overlays) throw new Error('a disk that is no overlay has no backing file');
      const path = fileOf(disk);
      try {
        await tellingDiskFull(`Creating disk ${disk.id}`, disksDirectory, async () => {
          await makeDiskFolder(disksDirectory, disk);
          if (disk.encryption === null) await createPlain(disk, path, backing?.path ?? null);
          else await createFromSkeleton(disk, await skeleton.path(), path, backing?.path ?? null);
          await makeDurable(path);
        });
      } catch (error) {
        await removeDiskFile(disksDirectory, disk);
        throw error;
      }
    },

    copy: (from, disk) => copyDiskFile(pathOf(from), disk, disksDirectory),

    delete: (disk) => removeDiskFile(disksDirectory, disk),

    async grow(disk) {
      const doing = `Growing disk ${disk.id}`;
      await tellingDiskFull(doing, disksDirectory, async () => {
        if (disk.encryption === null) await resizePlain(disk, fileOf(disk), doing);
        else await growImage(fileOf(disk), disk.sizeBytes, doing);
      });
    },

    attachment: (disk) => ({ path: fileOf(disk), format: 'qcow2' }),

    headerRegion: (disk) => headerRegion(disk, fileOf(disk)),
  };
}

async function createPlain(disk: DiskSpec, path: HostPath, backing: HostPath | null): Promise<void> {
  const overlay = backing === null ? [] : ['-b', backing, '-F', 'raw'];
  await run('qemu-img', ['create', '-q', '-f', 'qcow2', ...overlay, path, String(disk.sizeBytes)], {
    doing: `Creating disk ${disk.id}`,
    timeoutMs: QEMU_IMG_TIMEOUT_MS,
  });
}

/** QEMU refuses to make an image smaller unless told otherwise. */
async function resizePlain(disk: DiskSpec, path: HostPath, doing: string): Promise<void> {
  const args = ['resize', '-q', '-f', 'qcow2', path, String(disk.sizeBytes)];
  await run('qemu-img', args, { doing, timeoutMs: QEMU_IMG_TIMEOUT_MS });
}

/** Resizes before the backing file is named, so that all beyond the image's end reads as zeros. */
async function createFromSkeleton(
  disk: DiskSpec,
  skeleton: HostPath,
  path: HostPath,
  backing: HostPath | null,
): Promise<void> {
  await copyFile(skeleton, path, constants.COPYFILE_FICLONE);
  await onCopy(disk, path, ['resize', '-q'], [String(disk.sizeBytes)]);
  if (backing !== null) await onCopy(disk, path, ['rebase', '-q', '-u', '-b', backing, '-F', 'raw'], []);
  const { offset } = await headerRegion(disk, path);
  await using file = await open(path, 'r+');
  await writeAll(file, Buffer.alloc(HEADER_START_BYTES), offset);
}

async function onCopy(disk: DiskSpec, path: HostPath, verb: readonly string[], size: readonly string[]): Promise<void> {
  using passphrase = skeletonPassphrase();
  const image = JSON.stringify({
    driver: 'qcow2',
    'encrypt.key-secret': 'key',
    file: { driver: 'file', filename: path },
  });
  await run('qemu-img', [...verb, '--object', 'secret,id=key,file=/dev/fd/3', `json:${image}`, ...size], {
    doing: `Creating disk ${disk.id}`,
    fd3: passphrase,
    timeoutMs: QEMU_IMG_TIMEOUT_MS,
  });
}

async function makeDurable(path: HostPath): Promise<void> {
  await using file = await open(path, 'r');
  await file.sync();
  await syncFolder(dirname(path));
}

async function headerRegion(disk: DiskSpec, path: HostPath): Promise<HeaderRegion> {
  const pointer = await readPointer(path);
  if (pointer !== null) return headerInFile({ path, ...pointer });
  throw new NightlatchError('disk-header-missing', { disk: disk.id, format: disk.encryption ?? 'encryption', path });
}

/** Null when there is no such file, or it has no usable place for a header. */
async function readPointer(path: HostPath): Promise<EncryptionHeaderPointer | null> {
  try {
    await using file = await open(path, 'r');
    const { size } = await file.stat();
    return findEncryptionHeader(await readUpTo(file, Math.min(size, LONGEST_QCOW2_HEADER), 0), size);
  } catch (error) {
    if (error instanceof RangeError || hasCode(error, 'ENOENT')) return null;
    throw error;
  }
}
