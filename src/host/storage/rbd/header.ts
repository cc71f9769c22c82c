import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { HostPath } from '#core/ids.ts';
import { run } from '#host/exec.ts';
import { scratchFolder } from '#host/scratch.ts';
import { mediumNode, placeOf } from '#host/storage/attachment.ts';
import type { Images } from '#host/storage/rbd/images.ts';
import type { HeaderPart, HeaderRegion, RbdAttachment } from '#host/storage/storage-driver.ts';

const TIMEOUT_MS = 60_000;
const DIFF_START = Buffer.from('rbd diff v1\n');

/** A header at the start of an image: no block device, and nothing of the image but the header is read or written. */
export function headerInImage(
  attachment: RbdAttachment,
  {
    images,
    length,
    runDirectory,
  }: { readonly images: Images; readonly length: number; readonly runDirectory: HostPath },
): HeaderRegion {
  const { image } = attachment.rbd;
  const place = placeOf(attachment);
  return {
    place,
    offset: 0,
    length,

    async read(bytes = length) {
      const doing = `Reading the header of ${place}`;
      if (bytes === 0) return Buffer.alloc(0);
      await using folder = await scratchFolder(runDirectory);
      const file = join(folder.path, 'header');
      const from = `if=json:${JSON.stringify({ driver: 'raw', file: mediumNode(attachment) })}`;
      const args = ['dd', '-f', 'raw', '-O', 'raw', `bs=${bytes}`, 'count=1', from, `of=${file}`];
      try {
        await run('qemu-img', args, { doing, timeoutMs: TIMEOUT_MS });
      } catch (error) {
        if ((await images.find(image, doing)) === null) return Buffer.alloc(0);
        throw error;
      }
      return await readFile(file);
    },

    async write(parts) {
      await using folder = await scratchFolder(runDirectory);
      const file = join(folder.path, 'diff');
      await writeFile(file, diffOf(parts), { mode: 0o600, flag: 'wx' });
      await images.applyDiff(image, file, `Writing the header of ${place}`);
    },
  };
}

/**
 * What `rbd import-diff` takes. *See* Ceph's documentation, "RBD Incremental Backup", the file format: records of `w`, offset
 * and length as 64-bit little-endian numbers, and the data; an `e` at the end.
 */
export function diffOf(parts: readonly HeaderPart[]): Buffer {
  const records = parts.flatMap(({ at, bytes }) => {
    const head = Buffer.alloc(17, 'w');
    head.writeBigUInt64LE(BigInt(at), 1);
    head.writeBigUInt64LE(BigInt(bytes.length), 9);
    return [head, bytes];
  });
  return Buffer.concat([DIFF_START, ...records, Buffer.from('e')]);
}
