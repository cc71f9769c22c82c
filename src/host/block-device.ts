import { readFile, stat } from 'node:fs/promises';
import type { HostPath } from '#core/ids.ts';
import { SECTOR } from '#core/sizes.ts';
import { ignoring } from '#host/files.ts';

/** `major:minor` of a block device, as the kernel writes it: see makedev(3) for the bits. */
export async function deviceNumber(path: HostPath): Promise<string> {
  const { rdev } = await stat(path);
  return `${(rdev >>> 8) & 0xfff}:${(rdev & 0xff) | ((rdev >>> 12) & 0xfff00)}`;
}

/** The size of a block device; null: there is none of that name. */
export async function deviceBytes(path: HostPath): Promise<number | null> {
  try {
    return Number(await readFile(`/sys/dev/block/${await deviceNumber(path)}/size`, 'utf8')) * SECTOR;
  } catch (error) {
    ignoring('ENOENT')(error);
    return null;
  }
}
