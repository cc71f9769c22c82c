import type { DiskSpec } from '#core/disk.ts';
import { NightlatchError } from '#core/errors.ts';
import type { HostPath } from '#core/ids.ts';
import { LUKS2_HEADER_BYTES, SECTOR } from '#core/sizes.ts';
import { type MappingOptions, openMapping } from '#host/encryption/dm-crypt/opening.ts';
import { sectorBytesFor } from '#host/encryption/dm-crypt/sectors.ts';
import type { Encryptor, Medium } from '#host/encryption/encryptor.ts';
import { overwriteHeader } from '#host/encryption/overwrite-header.ts';
import { keptPart, type LuksLayout, rekeyHeader } from '#host/encryption/rekey-header.ts';
import { restoreHeader } from '#host/encryption/restore-header.ts';
import { run } from '#host/exec.ts';
import { pathOf } from '#host/storage/attachment.ts';
import { LUKS_MAGIC, LUKS2_METADATA_BYTES, type Luks2Facts, parseLuks2Header } from './luks2-header.ts';
import type { Mappings } from './mappings.ts';
import { resumeLuks, suspendMapping } from './suspending.ts';

/** The fewest iterations the format allows: a passphrase of 256 random bits gains nothing from more. */
const ITERATIONS = 1000;
const TIMEOUT_MS = 60_000;

/** The second copy is written first: while it is torn the first one is whole and as it was, later the other way round. */
export const LUKS2_LAYOUT: LuksLayout = {
  type: 'luks2',
  metadata: [
    { start: LUKS2_METADATA_BYTES, end: 2 * LUKS2_METADATA_BYTES },
    { start: 0, end: LUKS2_METADATA_BYTES },
  ],
  slots: (header) => parseLuks2Header(header)?.activeKeySlots ?? null,
  areas: (header) => parseLuks2Header(header)?.slotAreas ?? [],
};

/** LUKS2 by the kernel. */
export function luks2Encryptor(mappings: Mappings, options: MappingOptions, runDirectory: HostPath): Encryptor {
  return {
    attach: 'device',

    async format(disk, medium, key) {
      const doing = `Formatting disk ${disk.id}`;
      if (disk.encryption !== 'luksv2') throw new Error(`the LUKS2 encryptor was given a disk of ${disk.encryption}`);
      if (medium.header.length !== LUKS2_HEADER_BYTES) throw headerMissing(disk, medium);
      const device = pathOf(medium.attachment);
      await run('cryptsetup', [...formatArguments(disk), device], { doing, stdin: key, timeoutMs: TIMEOUT_MS });
      const test = ['open', '--type', 'luks2', '--test-passphrase', '--key-file=-', device];
      await run('cryptsetup', test, { doing, stdin: key, timeoutMs: TIMEOUT_MS });
    },

    async unlock(disk, medium, key) {
      await mappings.close(mappings.nameOf(disk), `Unlocking disk ${disk.id}`);
      const facts = await inspect(disk, medium);
      const opening = {
        args: ['--type', 'luks2'],
        resize: true,
        medium: pathOf(medium.attachment),
        uuidPrefix: `CRYPT-LUKS2-${facts.uuid.replaceAll('-', '')}-`,
        cipher: facts.cipher,
        offsetBytes: facts.payloadOffsetBytes,
        sectorBytes: facts.sectorBytes,
      };
      return await openMapping(mappings, disk, opening, key, options);
    },

    lock: (disk) => mappings.close(mappings.nameOf(disk), `Locking disk ${disk.id}`),
    suspend: (disk) => suspendMapping(mappings, disk),
    resume: (disk, _medium, key) => resumeLuks(mappings, disk, key),
    unlocked: async () => (await mappings.list()).map(({ diskId }) => diskId),
    inspect,
    async rekey(disk, medium, from, to, how) {
      // Not `inspect`: a crash may have left the first copy of the metadata in two halves, and cryptsetup takes the second.
      if (!(await readMetadata(medium)).subarray(0, LUKS_MAGIC.length).equals(LUKS_MAGIC))
        throw headerMissing(disk, medium);
      await rekeyHeader(disk, medium, { from, to }, LUKS2_LAYOUT, runDirectory, how);
    },

    async keptHeader(disk, medium) {
      await inspect(disk, medium);
      return keptPart(await medium.header.read(), LUKS2_LAYOUT);
    },

    restoreHeader: (disk, medium, header, key) =>
      restoreHeader(disk, medium, { header, key }, LUKS2_LAYOUT, runDirectory),

    destroy: (disk, medium) => overwriteHeader(disk, medium),
  };
}

function formatArguments(disk: DiskSpec): string[] {
  const layout = ['--type', 'luks2', '--offset', String(LUKS2_HEADER_BYTES / SECTOR)];
  const sector = ['--sector-size', String(sectorBytesFor(disk.sizeBytes))];
  const cipher = ['--cipher', 'aes-xts-plain64', '--key-size', '512', '--hash', 'sha256'];
  const pbkdf = ['--pbkdf', 'pbkdf2', '--pbkdf-force-iterations', String(ITERATIONS)];
  return ['luksFormat', '-q', ...layout, ...sector, ...cipher, ...pbkdf, '--key-file=-'];
}

async function inspect(disk: DiskSpec, medium: Medium): Promise<Luks2Facts> {
  const facts = parseLuks2Header(await readMetadata(medium));
  if (facts === null) throw headerMissing(disk, medium);
  return facts;
}

function readMetadata({ header }: Medium): Promise<Buffer> {
  return header.read(LUKS2_METADATA_BYTES);
}

function headerMissing(disk: DiskSpec, { header }: Medium): NightlatchError {
  return new NightlatchError('disk-header-missing', { disk: disk.id, format: 'LUKS2', path: header.place });
}
