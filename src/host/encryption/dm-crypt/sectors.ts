import { SECTOR } from '#core/sizes.ts';

const LARGE_SECTOR = 4096;

/** Larger sectors mean fewer of them to encrypt one by one; a disk must be a whole number of them. */
export function sectorBytesFor(sizeBytes: number): number {
  return sizeBytes % LARGE_SECTOR === 0 ? LARGE_SECTOR : SECTOR;
}
