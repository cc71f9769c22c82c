import { z } from 'zod';
import type { HeaderFacts } from '#host/encryption/encryptor.ts';

export type Luks2Facts = HeaderFacts & {
  readonly sectorBytes: number;
  /** Where the key material of the slots in use lies, in bytes. */
  readonly slotAreas: readonly { readonly start: number; readonly end: number }[];
};

/** Bytes of the first copy of the metadata that every LUKS2 header we write has. */
export const LUKS2_METADATA_BYTES = 16 * 1024;

/** How the first copy begins; the second begins otherwise. */
export const LUKS_MAGIC = Buffer.from('LUKS\xba\xbe', 'latin1');
const JSON_START = 4096;

/** A number of bytes, in words of JSON, which has no integers so large. */
const bytes = z.string().regex(/^\d{1,15}$/);

const metadata = z.object({
  keyslots: z.record(
    z.string().regex(/^\d+$/),
    z.object({ key_size: z.int().positive(), area: z.object({ offset: bytes, size: bytes }) }),
  ),
  segments: z.object({
    0: z.object({
      type: z.literal('crypt'),
      offset: bytes,
      encryption: z.string(),
      sector_size: z.int().positive(),
    }),
  }),
});

/**
 * Reads a LUKS2 header from the first copy of its metadata. Null: these bytes are no LUKS2 header, or a damaged one, or
 * one of more than one segment. Its checksum is cryptsetup's to check, which also has the second copy.
 *
 * *See* LUKS2 On-Disk Format Specification 1.1, sections 2.1 and 3.
 */
export function parseLuks2Header(bytes: Buffer): Luks2Facts | null {
  if (bytes.length < LUKS2_METADATA_BYTES || !bytes.subarray(0, 6).equals(LUKS_MAGIC)) return null;
  const version = bytes.readUInt16BE(6);
  const uuid = textUpToZero(bytes.subarray(168, 208));
  const json = metadata.safeParse(parseJson(textUpToZero(bytes.subarray(JSON_START))));
  if (version !== 2 || !/^[0-9a-f-]{36}$/.test(uuid) || !json.success) return null;
  const { keyslots, segments } = json.data;
  const [first] = Object.values(keyslots);
  return {
    format: 'luksv2',
    version,
    uuid,
    cipher: segments[0].encryption,
    keyBits: (first?.key_size ?? 0) * 8,
    payloadOffsetBytes: Number(segments[0].offset),
    activeKeySlots: Object.keys(keyslots).map(Number),
    sectorBytes: segments[0].sector_size,
    slotAreas: Object.values(keyslots).map(({ area: { offset, size } }) => {
      return { start: Number(offset), end: Number(offset) + Number(size) };
    }),
  };
}

function textUpToZero(bytes: Buffer): string {
  const end = bytes.indexOf(0);
  return bytes.toString('utf8', 0, end < 0 ? bytes.length : end);
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}
