import { createHash } from 'node:crypto';
import { open } from 'node:fs/promises';
import type { Readable } from 'node:stream';
import { badRequest, describeError, NightlatchError } from '#core/errors.ts';
import type { HostPath } from '#core/ids.ts';

/** What was written: how much, and its hashes in hexadecimal. */
export type SavedStream = { readonly sizeBytes: number; readonly md5: string; readonly sha512: string };

/**
 * Writes a stream to a new file, readable by us alone, and returns when it is durable. A file that was there is
 * replaced. On failure a part of it is left, which is the caller's to remove.
 *
 * *Throws* too-large, beyond `capBytes` or when the disk is full; bad-request, when the stream breaks off.
 */
export async function saveStream(bytes: Readable, path: HostPath, capBytes: number): Promise<SavedStream> {
  const md5 = createHash('md5');
  const sha512 = createHash('sha512');
  let sizeBytes = 0;
  await using file = await open(path, 'w', 0o600);
  for await (const chunk of brokenOff(bytes)) {
    sizeBytes += chunk.length;
    if (sizeBytes > capBytes) throw tooLarge(`it is larger than the limit of ${capBytes} bytes`);
    md5.update(chunk);
    sha512.update(chunk);
    await writing(() => file.writeFile(chunk));
  }
  await writing(() => file.sync());
  return { sizeBytes, md5: md5.digest('hex'), sha512: sha512.digest('hex') };
}

/**
 * The stream's chunks; that it broke off is told apart from failures of our own. When its reader gives up, the rest is
 * read and dropped: a client that is still sending would not see our answer if the connection were closed on it.
 */
async function* brokenOff(bytes: Readable): AsyncGenerator<Buffer> {
  const chunks: AsyncIterator<Buffer> = bytes.iterator({ destroyOnReturn: false });
  try {
    while (true) {
      const { done, value } = await chunks.next().catch((error) => {
        throw badRequest(`The upload broke off before its end (${describeError(error)}).`);
      });
      if (done) return;
      yield value;
    }
  } finally {
    await chunks.return?.();
    bytes.on('error', () => {}).resume();
  }
}

async function writing<T>(work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? error.code : null;
    if (code === 'ENOSPC' || code === 'EDQUOT') throw tooLarge('the image store is full; free space there');
    throw error;
  }
}

function tooLarge(reason: string): NightlatchError {
  return new NightlatchError('too-large', { reason: `Storing the image failed: ${reason}.` });
}
