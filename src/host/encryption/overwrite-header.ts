import { randomBytes } from 'node:crypto';
import type { DiskSpec } from '#core/disk.ts';
import type { Medium } from '#host/encryption/encryptor.ts';
import { tellingDiskFull } from '#host/files.ts';

const OVERWRITE_CHUNK = 4096;
const ZEROS = Buffer.alloc(OVERWRITE_CHUNK);

/**
 * Overwrites every part of a header's region that holds anything, durably. A part of zeros holds no key material, and
 * leaving it alone lets a disk that could not be formatted for want of room be destroyed while there is still none.
 * *Repeat*, and a medium that is gone: fine. *Throws* disk-full.
 */
export async function overwriteHeader(disk: DiskSpec, { header }: Medium): Promise<void> {
  const noise = partsInUse(await header.read()).map(({ start, end }) => ({
    at: start,
    bytes: randomBytes(end - start),
  }));
  if (noise.length === 0) return;
  await tellingDiskFull(`Destroying disk ${disk.id}`, header.place, () => header.write(noise));
}

/** The parts that hold anything, in whole chunks, as long as possible. */
function partsInUse(bytes: Buffer): { readonly start: number; readonly end: number }[] {
  const parts: { start: number; end: number }[] = [];
  for (let start = 0; start < bytes.length; start += OVERWRITE_CHUNK) {
    const chunk = bytes.subarray(start, start + OVERWRITE_CHUNK);
    if (chunk.equals(ZEROS.subarray(0, chunk.length))) continue;
    const end = start + chunk.length;
    const last = parts.at(-1);
    if (last?.end === start) last.end = end;
    else parts.push({ start, end });
  }
  return parts;
}
