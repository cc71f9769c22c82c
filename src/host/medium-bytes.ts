import { open } from 'node:fs/promises';
import type { Readable } from 'node:stream';
import { NightlatchError } from '#core/errors.ts';
import { MIB } from '#core/sizes.ts';
import { tellingDiskFull, writeAll } from '#host/files.ts';
import { blockDeviceOf, pathOf } from '#host/storage/attachment.ts';
import type { DiskAttachment } from '#host/storage/storage-driver.ts';

const CHUNK = 64 * 1024;
const ZEROS = Buffer.alloc(CHUNK);

/** The bytes of a medium that are its disk's, from the first to the last. */
export async function readMedium(attachment: DiskAttachment): Promise<Readable> {
  const path = pathOf(attachment);
  const blockDevice = blockDeviceOf(attachment);
  const file = await open(path, 'r');
  const end = blockDevice ? { end: blockDevice.usedBytes - 1 } : {};
  return file.createReadStream({ highWaterMark: MIB, ...end });
}

/**
 * Writes such bytes onto a fresh medium, durably. Zeros take no room in a file. *Throws* disk-full; medium-damaged when fewer or
 * more bytes come than the medium has, of a raw one.
 */
export async function receiveMedium(attachment: DiskAttachment, bytes: Readable, doing: string): Promise<void> {
  const { format } = attachment;
  const path = pathOf(attachment);
  const blockDevice = blockDeviceOf(attachment);
  await tellingDiskFull(doing, path, async () => {
    await using file = await open(path, 'r+');
    const expected = format === 'raw' ? (blockDevice?.usedBytes ?? (await file.stat()).size) : null;
    if (!blockDevice) await file.truncate(0);
    let at = 0;
    for await (const piece of bytes as AsyncIterable<Buffer>) {
      if (expected !== null && at + piece.length > expected) throw damaged(doing, `more than ${expected} bytes came`);
      for (let start = 0; start < piece.length; start += CHUNK) {
        const chunk = piece.subarray(start, start + CHUNK);
        const isHole = !blockDevice && chunk.equals(ZEROS.subarray(0, chunk.length));
        if (!isHole) await writeAll(file, chunk, at + start);
      }
      at += piece.length;
    }
    if (expected !== null && at < expected) throw damaged(doing, `${at} bytes came instead of ${expected}`);
    if (!blockDevice) await file.truncate(at);
    await file.sync();
  });
}

function damaged(doing: string, reason: string): NightlatchError {
  return new NightlatchError('medium-damaged', { doing, reason });
}
