import { roundUpToSector, SECTOR } from '#core/sizes.ts';
import type { HeaderFacts } from '#host/encryption/encryptor.ts';

/** Bytes of the part of a LUKS1 header that tells what the rest is (`struct luks_phdr`). */
export const LUKS1_PHDR_BYTES = 592;

const MAGIC = Buffer.from('LUKS\xba\xbe', 'latin1');
const KEY_SLOTS = 8;
const KEY_SLOTS_START = 208;
const KEY_SLOT_BYTES = 48;
const KEY_ENABLED = 0x00ac71f3;
const KEY_DISABLED = 0x0000dead;

/**
 * Reads a LUKS1 header from its first 592 bytes. Null: these bytes are no LUKS1 header, or a damaged one.
 *
 * *See* LUKS On-Disk Format Specification 1.2.3, section 2.3, figures 2 and 3.
 */
export function parseLuks1Header(bytes: Buffer): HeaderFacts | null {
  if (bytes.length < LUKS1_PHDR_BYTES || !bytes.subarray(0, 6).equals(MAGIC)) return null;
  const version = bytes.readUInt16BE(6);
  const name = readText(bytes, 8, 32);
  const mode = readText(bytes, 40, 32);
  const uuid = readText(bytes, 168, 40);
  const activeKeySlots = readKeySlots(bytes);
  if (version !== 1 || !name || !mode || !uuid || activeKeySlots === null) return null;
  return {
    format: 'luks',
    version,
    uuid,
    cipher: `${name}-${mode}`,
    keyBits: bytes.readUInt32BE(108) * 8,
    payloadOffsetBytes: bytes.readUInt32BE(104) * SECTOR,
    activeKeySlots,
  };
}

/** Where the key material of the slots in use lies, in bytes; empty when these bytes are no LUKS1 header. */
export function luks1SlotAreas(bytes: Buffer): { readonly start: number; readonly end: number }[] {
  const { activeKeySlots = [], keyBits = 0 } = parseLuks1Header(bytes) ?? {};
  return activeKeySlots.map((slot) => {
    const at = KEY_SLOTS_START + slot * KEY_SLOT_BYTES;
    const start = bytes.readUInt32BE(at + 40) * SECTOR;
    return { start, end: start + roundUpToSector(bytes.readUInt32BE(at + 44) * (keyBits / 8)) };
  });
}

/** Numbers of the slots in use; null when one is neither in use nor free. */
function readKeySlots(bytes: Buffer): number[] | null {
  const states = Array.from({ length: KEY_SLOTS }, (_, i) => bytes.readUInt32BE(KEY_SLOTS_START + i * KEY_SLOT_BYTES));
  if (states.some((state) => state !== KEY_ENABLED && state !== KEY_DISABLED)) return null;
  return states.flatMap((state, slot) => (state === KEY_ENABLED ? [slot] : []));
}

/** Printable ASCII up to a zero byte; null for anything else. */
function readText(bytes: Buffer, offset: number, length: number): string | null {
  const field = bytes.subarray(offset, offset + length);
  const end = field.indexOf(0);
  const text = field.toString('latin1', 0, end);
  return end > 0 && /^[\x21-\x7e]+$/.test(text) ? text : null;
}
