import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { HostPath } from '#core/ids.ts';
import { run } from '#host/exec.ts';
import { scratchFolder } from '#host/scratch.ts';
import { mediumNode, placeOf } from '#host/storage/attachment.ts';
import { diffEnd, diffRecord, diffStart } from '#host/storage/rbd/diff.ts';
import { type Images, tellingSilence } from '#host/storage/rbd/images.ts';
import type { HeaderRegion, RbdAttachment } from '#host/storage/storage-driver.ts';

const TIMEOUT_MS = 60_000;

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
        await tellingSilence(attachment.rbd.conf, () => run('qemu-img', args, { doing, timeoutMs: TIMEOUT_MS }));
      } catch (error) {
        if ((await images.find(image, doing)) === null) return Buffer.alloc(0);
        throw error;
      }
      return await readFile(file);
    },

    async write(parts) {
      await using folder = await scratchFolder(runDirectory);
      const file = join(folder.path, 'diff');
      const diff = Buffer.concat([diffStart, ...parts.flatMap(diffRecord), diffEnd]);
      await writeFile(file, diff, { mode: 0o600, flag: 'wx' });
      await images.applyDiff(image, file, `Writing the header of ${place}`);
    },
  };
}
