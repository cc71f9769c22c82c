/** What a crypt mapping is made of; its key is left out. Lengths and offsets in bytes. */
export type CryptTable = {
  readonly lengthBytes: number;
  readonly cipher: string;
  /** `major:minor` of the device below. */
  readonly device: string;
  readonly offsetBytes: number;
  readonly sectorBytes: number;
  /** Such as `no_read_workqueue`. */
  readonly flags: readonly string[];
};

const SECTOR = 512;
const SECTOR_SIZE = 'sector_size:';

/**
 * Reads what `dmsetup table` prints of one mapping. Null: it is not one crypt target from its first sector on.
 *
 * *See* Linux, Documentation/admin-guide/device-mapper/dm-crypt.rst.
 */
export function parseCryptTable(text: string): CryptTable | null {
  const lines = text.split('\n').filter((line) => line.trim() !== '');
  const [start, length, target, cipher, , , device, offset, count, ...options] = lines[0]?.trim().split(' ') ?? [];
  if (lines.length !== 1 || start !== '0' || target !== 'crypt' || !cipher || !device) return null;
  if (!/^\d+:\d+$/.test(device) || !isNumber(length) || !isNumber(offset)) return null;
  if (Number(count ?? 0) !== options.length) return null;
  const size = options.find((option) => option.startsWith(SECTOR_SIZE))?.slice(SECTOR_SIZE.length) ?? String(SECTOR);
  return {
    lengthBytes: Number(length) * SECTOR,
    cipher,
    device,
    offsetBytes: Number(offset) * SECTOR,
    sectorBytes: Number(size),
    flags: options.filter((option) => !option.includes(':')),
  };
}

function isNumber(text: string | undefined): text is string {
  return text !== undefined && /^\d+$/.test(text);
}
