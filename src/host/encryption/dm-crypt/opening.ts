import type { DiskSpec } from '#core/disk.ts';
import { NightlatchError } from '#core/errors.ts';
import type { HostPath } from '#core/ids.ts';
import type { Secret } from '#core/secret.ts';
import { SECTOR } from '#core/sizes.ts';
import { deviceNumber } from '#host/block-device.ts';
import { run } from '#host/exec.ts';
import type { Mappings } from './mappings.ts';
import type { CryptTable } from './table.ts';

/** dm-crypt's own options, for a whole host. See cryptsetup-open(8), `--perf-no_read_workqueue`. */
export type MappingOptions = { readonly noReadWorkqueue: boolean; readonly noWriteWorkqueue: boolean };

/** How a disk is to be opened, and what the mapping must then be. */
export type Opening = {
  /** Arguments of `cryptsetup open` that tell the format. */
  readonly args: readonly string[];
  /** `cryptsetup open` ignores `--size` for LUKS, and maps all that the medium has; it is cut before it is given out. */
  readonly resize: boolean;
  readonly medium: HostPath;
  /** What cryptsetup calls the mapping, before its name: `CRYPT-PLAIN-`, `CRYPT-LUKS2-<uuid>-`. */
  readonly uuidPrefix: string;
  readonly cipher: string;
  readonly offsetBytes: number;
  readonly sectorBytes: number;
};

const TIMEOUT_MS = 60_000;
/** cryptsetup(8): no passphrase fits. */
const WRONG_KEY = 2;

/**
 * Opens a mapping of exactly the disk's size and returns its path, after looking whether it is the right one: over the
 * disk's own medium, of its cipher, offset and size, by its own header. On any failure there is no mapping.
 *
 * *Throws* disk-wrong-key where the format can tell; mapping-unexpected.
 */
export async function openMapping(
  mappings: Mappings,
  disk: DiskSpec,
  opening: Opening,
  key: Secret,
  options: MappingOptions,
): Promise<HostPath> {
  const doing = `Unlocking disk ${disk.id}`;
  const name = mappings.nameOf(disk);
  const size = ['--size', String(disk.sizeBytes / SECTOR)];
  const sized = opening.resize ? [] : size;
  const args = ['open', ...opening.args, ...sized, ...performance(options), '--key-file=-', opening.medium, name];
  try {
    const { code } = await run('cryptsetup', args, { doing, stdin: key, tolerate: [WRONG_KEY], timeoutMs: TIMEOUT_MS });
    if (code === WRONG_KEY) throw new NightlatchError('disk-wrong-key', { disk: disk.id });
    if (opening.resize) await mappings.resize(disk, key, doing);
    const reason = await difference(mappings, disk, opening, name, doing);
    if (reason !== null) throw new NightlatchError('mapping-unexpected', { disk: disk.id, mapping: name, reason });
    return mappings.pathOf(name);
  } catch (error) {
    await mappings.close(name, doing);
    throw error;
  }
}

function performance({ noReadWorkqueue, noWriteWorkqueue }: MappingOptions): string[] {
  return [
    ...(noReadWorkqueue ? ['--perf-no_read_workqueue'] : []),
    ...(noWriteWorkqueue ? ['--perf-no_write_workqueue'] : []),
  ];
}

/** In what the mapping is not the one meant; null: in nothing. */
async function difference(
  mappings: Mappings,
  disk: DiskSpec,
  opening: Opening,
  name: string,
  doing: string,
): Promise<string | null> {
  const found = await mappings.find(name);
  if (found?.uuid !== opening.uuidPrefix + name) return `its UUID is ${found?.uuid}`;
  const table = await mappings.table(name, doing);
  if (table === null) return 'it is no crypt mapping';
  const expected: Partial<CryptTable> = {
    lengthBytes: disk.sizeBytes,
    cipher: opening.cipher,
    device: await deviceNumber(opening.medium),
    offsetBytes: opening.offsetBytes,
    sectorBytes: opening.sectorBytes,
  };
  for (const [field, value] of Object.entries(expected)) {
    const actual = table[field as keyof CryptTable];
    if (actual !== value) return `its ${field} is ${actual} instead of ${value}`;
  }
  return null;
}
