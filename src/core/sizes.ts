/** Bytes in one mebibyte. */
export const MIB = 1024 ** 2;
/** Bytes in one gibibyte. */
export const GIB = 1024 ** 3;
/** Bytes in the sector that LUKS and device-mapper count in. */
export const SECTOR = 512;

/**
 * Payload offset, in sectors, of every LUKS1 header we write: QEMU's own layout, so that sizes agree between QEMU and
 * cryptsetup. See LUKS On-Disk Format Specification 1.2.3, section 2.3 (`payload-offset`).
 */
export const LUKS1_PAYLOAD_OFFSET_SECTORS = 4040;
/** Bytes before the payload of every LUKS1 container we write. */
export const LUKS1_HEADER_BYTES = LUKS1_PAYLOAD_OFFSET_SECTORS * SECTOR;

/**
 * Bytes before the payload of every LUKS2 container we write: cryptsetup's own layout with 16 KiB of metadata, twice,
 * and the rest for key slots. See LUKS2 On-Disk Format Specification 1.1, section 2.
 */
export const LUKS2_HEADER_BYTES = 16 * MIB;

/** Rounds `bytes` up to a whole number of sectors. */
export function roundUpToSector(bytes: number): number {
  return Math.ceil(bytes / SECTOR) * SECTOR;
}
