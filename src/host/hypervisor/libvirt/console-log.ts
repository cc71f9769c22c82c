import { open, readdir, rm } from 'node:fs/promises';
import { basename, dirname } from 'node:path';
import type { HostPath } from '#core/ids.ts';

/**
 * The last `bytes` bytes of a console log that virtlogd keeps: `FILE`, and `FILE.0` from before it was last full.
 * A log that is not there is empty.
 */
export async function readConsoleLog(file: HostPath, bytes: number): Promise<Buffer> {
  const newest = await readTail(file, bytes);
  if (newest.length >= bytes) return newest;
  return Buffer.concat([await readTail(`${file}.0`, bytes - newest.length), newest]);
}

/**
 * Makes a console log of our own, for virtlogd to write on: one that it made itself only root could read. What is there of an
 * earlier start stays.
 */
export async function makeConsoleLog(file: HostPath): Promise<void> {
  const make = async () => (await open(file, 'a+', 0o600)).close();
  await make().catch(async (error: NodeJS.ErrnoException) => {
    if (error.code !== 'EACCES') throw error;
    // The folder is ours, what virtlogd began after the one before was full is not.
    await removeConsoleLog(file);
    await make();
  });
}

/** Removes a console log and what virtlogd kept of its past. *Repeat*: fine. */
export async function removeConsoleLog(file: HostPath): Promise<void> {
  const names = await readdir(dirname(file));
  const ours = names.filter((name) => name === basename(file) || name.startsWith(`${basename(file)}.`));
  await Promise.all(ours.map((name) => rm(`${dirname(file)}/${name}`, { force: true })));
}

async function readTail(path: string, bytes: number): Promise<Buffer> {
  const handle = await open(path).catch((error: NodeJS.ErrnoException) => {
    // EACCES: begun by a virtlogd of the machine, when the one before was full; to us it is not there.
    if (error.code === 'ENOENT' || error.code === 'EACCES') return null;
    throw error;
  });
  if (handle === null) return Buffer.alloc(0);
  await using _ = handle;
  const { size } = await handle.stat();
  const length = Math.min(size, bytes);
  const { buffer, bytesRead } = await handle.read(Buffer.alloc(length), 0, length, size - length);
  return buffer.subarray(0, bytesRead);
}
