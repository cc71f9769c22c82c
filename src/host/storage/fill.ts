import { open, stat } from 'node:fs/promises';
import type { DiskContent, DiskSpec } from '#core/disk.ts';
import { NightlatchError } from '#core/errors.ts';
import type { HostPath, ImageId } from '#core/ids.ts';
import type { Secret } from '#core/secret.ts';
import { run } from '#host/exec.ts';
import { tellingDiskFull, writeAll } from '#host/files.ts';
import type { BlockNode } from '#host/fuse-exports.ts';
import { buildConfigDrive } from '#host/storage/config-drive.ts';
import { PacedCopy } from '#host/storage/paced-copy.ts';

/** Label of a swap disk's swap area. */
const SWAP_LABEL = 'swap';
const IMAGE_TIMEOUT_MS = 60 * 60_000;
const TIMEOUT_MS = 10 * 60_000;

/** An encrypted image, as QEMU opens it; `key-secret` in its description is `key`. */
export type EncryptedSource = { readonly node: BlockNode; readonly key: Secret };

/** What filling a disk needs to know of the host. */
export type FillSource = {
  /** The raw image in the cache, or the plaintext of the disk to copy; needed for those contents only. */
  readonly sourceFile: HostPath | null;
  /** The disk reads as zeros now, so that zeros need not be written. */
  readonly isZeroed: boolean;
  /** The encrypted image to copy, instead. */
  readonly sourceImage?: EncryptedSource;
  /** Is told of the copying of a disk before it begins. */
  readonly onCopy?: (copy: PacedCopy) => void;
  /** Memory-backed storage for what must not touch a disk in clear. */
  readonly runDirectory: HostPath;
};

/**
 * Writes what a fresh disk holds before the guest first sees it, through the file `plaintext` that shows what the disk
 * holds (see `Encryptor.unlock`, `exposePlainDisk`); it is on the medium when the call returns.
 *
 * Blocks of an encrypted raw disk that were never written read as noise, not as zeros, so all that must be zero is
 * written. Nothing may discard: QEMU's FUSE export answers "punch a hole" with success and leaves the noise.
 * *Repeat*: the caller formats the disk again first. *Throws* disk-full, program-missing, program-failed; too-large for a
 * config drive that does not fit.
 */
export async function fillDisk(
  disk: DiskSpec,
  content: DiskContent,
  plaintext: HostPath,
  source: FillSource,
): Promise<void> {
  const doing = `Filling disk ${disk.id}`;
  switch (content.kind) {
    case 'blank':
    case 'clone':
    case 'medium':
      return;
    case 'image':
      await copyAll(source, plaintext, doing);
      break;
    case 'disk':
      await copyDisk(content, source, plaintext, doing);
      break;
    case 'filesystem':
      await makeFilesystem(content.label, plaintext, doing);
      break;
    case 'swap':
      await run('mkswap', ['--quiet', '--label', SWAP_LABEL, plaintext], { doing, timeoutMs: TIMEOUT_MS });
      break;
    case 'config-drive':
      await writeConfigDrive(disk, await buildConfigDrive(content.files, source.runDirectory, doing), plaintext, doing);
      break;
  }
  await tellingDiskFull(doing, plaintext, () => flush(plaintext));
}

/**
 * Refuses an image that is larger than the disk; of an overlay the guest would see the image cut short, and nobody told.
 * *Throws* image-invalid.
 */
export async function checkImageFits(disk: DiskSpec, imageId: ImageId, imageFile: HostPath): Promise<void> {
  const { size } = await stat(imageFile);
  if (size <= disk.sizeBytes) return;
  const reason = `it has ${size} bytes and disk ${disk.id} only ${disk.sizeBytes}; use a flavor with a larger disk`;
  throw new NightlatchError('image-invalid', { image: imageId, reason });
}

function neededSource({ sourceFile }: FillSource): HostPath {
  if (sourceFile === null) throw new Error('a copy needs what it is made from');
  return sourceFile;
}

async function copyDisk(
  { from: { sizeBytes }, bytesPerSecond = 0 }: DiskContent & { readonly kind: 'disk' },
  source: FillSource,
  plaintext: HostPath,
  doing: string,
): Promise<void> {
  const { isZeroed, onCopy } = source;
  const what = { from: neededSource(source), to: plaintext, totalBytes: sizeBytes, isZeroed, doing };
  const copy = new PacedCopy(what, bytesPerSecond);
  onCopy?.(copy);
  await copy.run();
}

/** `-S 0` writes zeros as data instead of discarding; what is zero already stays sparse. */
async function copyAll(source: FillSource, plaintext: HostPath, doing: string): Promise<void> {
  const convert = ['convert', '-n', ...(source.isZeroed ? ['--target-is-zero'] : ['-S', '0'])];
  const options = { doing, timeoutMs: IMAGE_TIMEOUT_MS };
  if (!source.sourceImage) {
    const formats = ['-f', 'raw', '-O', 'raw'];
    await run('qemu-img', [...convert, ...formats, neededSource(source), plaintext], options);
    return;
  }
  const { node, key } = source.sourceImage;
  const secret = ['--object', 'secret,id=key,file=/dev/fd/3'];
  const image = `json:${JSON.stringify(node)}`;
  await run('qemu-img', [...convert, ...secret, '-O', 'raw', image, plaintext], { ...options, fd3: key });
}

/**
 * Takes the same time at any size: inode tables are left for the guest's kernel, which zeroes them before it uses them,
 * and the journal needs no zeros, since the noise in it cannot look like a journal of this file system.
 */
async function makeFilesystem(label: string, plaintext: HostPath, doing: string): Promise<void> {
  const options = 'nodiscard,lazy_itable_init=1,lazy_journal_init=1,root_owner=0:0';
  await run('mkfs.ext4', ['-q', '-F', '-L', label, '-E', options, plaintext], { doing, timeoutMs: TIMEOUT_MS });
}

/** Zeros follow the image up to the disk's end. */
async function writeConfigDrive(disk: DiskSpec, image: Buffer, plaintext: HostPath, doing: string): Promise<void> {
  if (image.length > disk.sizeBytes) {
    throw new NightlatchError('too-large', {
      reason: `${doing} failed: its files need ${image.length} bytes and a config drive has ${disk.sizeBytes}. Use less metadata or user data.`,
    });
  }
  await tellingDiskFull(doing, plaintext, async () => {
    await using file = await open(plaintext, 'r+');
    await writeAll(file, Buffer.concat([image], disk.sizeBytes), 0);
  });
}

async function flush(path: HostPath): Promise<void> {
  await using file = await open(path, 'r+');
  await file.sync();
}
