import { open } from 'node:fs/promises';
import type { HostPath } from '#core/ids.ts';
import { hasCode, readUpTo, writeAll } from '#host/files.ts';
import type { HeaderRegion } from '#host/storage/storage-driver.ts';

type Place = Pick<HeaderRegion, 'offset' | 'length' | 'note'> & { readonly path: HostPath };

/** A header in a file, or on a block device. */
export function headerInFile({ path, ...region }: Place): HeaderRegion {
  return {
    ...region,
    place: path,

    async read(length = region.length) {
      try {
        await using file = await open(path, 'r');
        return await readUpTo(file, length, region.offset);
      } catch (error) {
        if (hasCode(error, 'ENOENT')) return Buffer.alloc(0);
        throw error;
      }
    },

    async write(parts) {
      await using file = await open(path, 'r+');
      for (const { at, bytes } of parts) await writeAll(file, bytes, region.offset + at);
      await file.sync();
    },
  };
}
