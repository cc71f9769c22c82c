import { constants } from 'node:fs';
import { type FileHandle, mkdir, open, rm, rmdir } from 'node:fs/promises';
import { dirname } from 'node:path';
import { NightlatchError } from '#core/errors.ts';

/** Makes the names in a folder durable: what was created, renamed or removed there stays so after a power cut. */
export async function syncFolder(path: string): Promise<void> {
  await using folder = await open(path, constants.O_RDONLY | constants.O_DIRECTORY);
  await folder.sync();
}

/** Creates a folder below `parent`, which must exist, durably. *Repeat*: fine. */
export async function makeFolder(path: string): Promise<void> {
  await mkdir(path, { mode: 0o700 }).catch(ignoring('EEXIST'));
  await syncFolder(dirname(path));
}

/** Removes a file, durably. *Repeat*: a file or folder that is already gone is fine. */
export async function removeFile(path: string): Promise<void> {
  await rm(path, { force: true });
  await syncFolder(dirname(path)).catch(ignoring('ENOENT'));
}

/** Removes a folder if nothing is left in it. */
export async function removeFolderIfEmpty(path: string): Promise<void> {
  await rmdir(path).catch(ignoring('ENOENT', 'ENOTEMPTY'));
}

/** Runs `work`, telling an exhausted file system by its catalogue error. *Throws* disk-full. */
export async function tellingDiskFull<T>(doing: string, where: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (!hasCode(error, 'ENOSPC', 'EDQUOT')) throw error;
    throw new NightlatchError('disk-full', { doing, where }, { cause: error });
  }
}

/** Writes all of `bytes` at `position`; a single write may be cut short without an error. */
export async function writeAll(file: FileHandle, bytes: Buffer, position: number): Promise<void> {
  for (let done = 0; done < bytes.length; ) {
    const { bytesWritten } = await file.write(bytes, done, bytes.length - done, position + done);
    done += bytesWritten;
  }
}

/** Reads `length` bytes at `position`, fewer where the file ends. */
export async function readUpTo(file: FileHandle, length: number, position: number): Promise<Buffer> {
  const bytes = Buffer.alloc(length);
  let done = 0;
  while (done < length) {
    const { bytesRead } = await file.read(bytes, done, length - done, position + done);
    if (bytesRead === 0) break;
    done += bytesRead;
  }
  return bytes.subarray(0, done);
}

/** True for a system error with one of these codes, such as ENOENT. */
export function hasCode(error: unknown, ...codes: readonly string[]): boolean {
  return error instanceof Error && 'code' in error && codes.includes(String(error.code));
}

/** A rejection handler that swallows system errors with these codes and nothing else. */
export function ignoring(...codes: readonly string[]): (error: unknown) => undefined {
  return (error) => {
    if (!hasCode(error, ...codes)) throw error;
    return undefined;
  };
}

/** On return all that was written to the file is on its medium. */
export async function syncFile(path: string): Promise<void> {
  await using file = await open(path, 'r+');
  await file.sync();
}
