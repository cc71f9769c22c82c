import type { DiskSpec } from '#core/disk.ts';
import { NightlatchError } from '#core/errors.ts';
import type { HostPath } from '#core/ids.ts';
import { LUKS1_HEADER_BYTES } from '#core/sizes.ts';
import type { Encryptor, HeaderFacts, Medium } from '#host/encryption/encryptor.ts';
import { makeLuks1Header } from '#host/encryption/luks/format.ts';
import { LUKS1_PHDR_BYTES, luks1SlotAreas, parseLuks1Header } from '#host/encryption/luks/header.ts';
import { overwriteHeader } from '#host/encryption/overwrite-header.ts';
import { keptPart, type LuksLayout, rekeyHeader } from '#host/encryption/rekey-header.ts';
import { restoreHeader } from '#host/encryption/restore-header.ts';
import { tellingDiskFull } from '#host/files.ts';
import type { BlockNode, FuseExports } from '#host/fuse-exports.ts';
import { mediumNode } from '#host/storage/attachment.ts';

/** The key material of the first slot follows the header proper, in a sector of its own. */
export const LUKS1_LAYOUT: LuksLayout = {
  type: 'luks1',
  metadata: [{ start: 0, end: 4096 }],
  slots: (header) => parseLuks1Header(header)?.activeKeySlots ?? null,
  areas: luks1SlotAreas,
};

/** LUKSv1 by QEMU's own layer: no block device, no kernel module; raw and qcow2 alike. */
export function luksEncryptor({
  runDirectory,
  exports,
}: {
  readonly runDirectory: HostPath;
  readonly exports: FuseExports;
}): Encryptor {
  return {
    attach: 'qemu',

    async format(disk, medium, key) {
      const doing = `Formatting disk ${disk.id}`;
      if (disk.encryption !== 'luks')
        throw new Error(`the LUKS encryptor was given a disk of format ${disk.encryption}`);
      if (medium.header.length !== LUKS1_HEADER_BYTES) throw headerMissing(disk, medium);
      const header = await makeLuks1Header(key, runDirectory, doing);
      await tellingDiskFull(doing, medium.header.place, () => medium.header.write([{ at: 0, bytes: header }]));
    },

    async unlock(disk, medium, key) {
      try {
        return await exports.export(disk.id, luksNode(medium), key, `Unlocking disk ${disk.id}`);
      } catch (error) {
        const isWrongKey = error instanceof NightlatchError && /Invalid password/.test(String(error.details.stderr));
        if (isWrongKey) throw new NightlatchError('disk-wrong-key', { disk: disk.id }, { cause: error });
        await inspect(disk, medium);
        throw error;
      }
    },

    lock: (disk) => exports.withdraw(disk.id),
    unlocked: () => exports.exported(),
    inspect,

    async rekey(disk, medium, from, to, how) {
      await inspect(disk, medium);
      await rekeyHeader(disk, medium, { from, to }, LUKS1_LAYOUT, runDirectory, how);
    },

    async keptHeader(disk, medium) {
      await inspect(disk, medium);
      return keptPart(await medium.header.read(), LUKS1_LAYOUT);
    },

    restoreHeader: (disk, medium, header, key) =>
      restoreHeader(disk, medium, { header, key }, LUKS1_LAYOUT, runDirectory),

    destroy: overwriteHeader,
  };
}

async function inspect(disk: DiskSpec, medium: Medium): Promise<HeaderFacts> {
  const facts = parseLuks1Header(await medium.header.read(LUKS1_PHDR_BYTES));
  if (facts === null) throw headerMissing(disk, medium);
  return facts;
}

function luksNode({ attachment }: Medium): BlockNode {
  const file = mediumNode(attachment);
  if (attachment.format === 'raw') return { driver: 'luks', 'key-secret': 'key', file };
  return { driver: 'qcow2', encrypt: { format: 'luks', 'key-secret': 'key' }, file };
}

function headerMissing(disk: DiskSpec, { header }: Medium): NightlatchError {
  return new NightlatchError('disk-header-missing', { disk: disk.id, format: 'LUKS', path: header.place });
}
