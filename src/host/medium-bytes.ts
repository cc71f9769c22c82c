import { open } from 'node:fs/promises';
import type { Readable } from 'node:stream';
import { NightlatchError } from '#core/errors.ts';
import { MIB } from '#core/sizes.ts';
import { tellingDiskFull, writeAll } from '#host/files.ts';
import { Images } from '#host/storage/rbd/images.ts';
import type { DiskAttachment, FileAttachment, RbdImage } from '#host/storage/storage-driver.ts';
import { writtenRuns } from '#host/storage/written-runs.ts';

/** The bytes of a medium that are its disk's, from the first to the last. */
export async function readMedium(attachment: DiskAttachment): Promise<Readable> {
  if ('rbd' in attachment) {
    const { image } = attachment.rbd;
    return Images.around(attachment.rbd).export(image, `Reading image ${image}`);
  }
  const { path, blockDevice } = attachment;
  const file = await open(path, 'r');
  const end = blockDevice ? { end: blockDevice.usedBytes - 1 } : {};
  return file.createReadStream({ highWaterMark: MIB, ...end });
}

/**
 * Writes such bytes onto a fresh medium, durably. Zeros take no room in a file or an image. *Throws* disk-full; medium-damaged
 * when fewer or more bytes come than the medium has, of a raw one.
 */
export async function receiveMedium(attachment: DiskAttachment, bytes: Readable, doing: string): Promise<void> {
  if ('rbd' in attachment) await receiveImage(attachment.rbd, bytes, doing);
  else await tellingDiskFull(doing, attachment.path, () => receiveFile(attachment, bytes, doing));
}

async function receiveFile(attachment: FileAttachment, bytes: Readable, doing: string): Promise<void> {
  const { path, format, blockDevice } = attachment;
  await using file = await open(path, 'r+');
  const expected = format === 'raw' ? (blockDevice?.usedBytes ?? (await file.stat()).size) : null;
  if (!blockDevice) await file.truncate(0);
  let at = 0;
  for await (const piece of exactly(expected, bytes, doing)) {
    const runs = blockDevice ? [{ at: 0, bytes: piece }] : writtenRuns(piece);
    for (const run of runs) await writeAll(file, run.bytes, at + run.at);
    at += piece.length;
  }
  if (!blockDevice) await file.truncate(at);
  await file.sync();
}

async function receiveImage(rbd: RbdImage, bytes: Readable, doing: string): Promise<void> {
  const images = Images.around(rbd);
  const expected = (await images.find(rbd.image, doing))?.sizeBytes ?? 0;
  await images.import(rbd.image, exactly(expected, bytes, doing), doing);
}

/** `bytes`, of which there are so many; null: any number. *Throws* medium-damaged. */
async function* exactly(expected: number | null, bytes: AsyncIterable<Buffer>, doing: string): AsyncIterable<Buffer> {
  let at = 0;
  for await (const piece of bytes) {
    at += piece.length;
    if (expected !== null && at > expected) throw damaged(doing, `more than ${expected} bytes came`);
    yield piece;
  }
  if (expected !== null && at < expected) throw damaged(doing, `${at} bytes came instead of ${expected}`);
}

function damaged(doing: string, reason: string): NightlatchError {
  return new NightlatchError('medium-damaged', { doing, reason });
}
