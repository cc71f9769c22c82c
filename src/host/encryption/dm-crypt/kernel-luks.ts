import { SECTOR } from '#core/sizes.ts';
import { type MappingOptions, openMapping } from '#host/encryption/dm-crypt/opening.ts';
import type { Encryptor } from '#host/encryption/encryptor.ts';
import { pathOf } from '#host/storage/attachment.ts';
import type { Mappings } from './mappings.ts';
import { resumeLuks, suspendMapping } from './suspending.ts';

/**
 * LUKSv1 opened by the kernel instead of by QEMU (`luks_engine = "dm-crypt"`). `headers` does all that concerns the
 * header, which is the same for both, so that a disk can go from one engine to the other.
 */
export function kernelLuksEncryptor(headers: Encryptor, mappings: Mappings, options: MappingOptions): Encryptor {
  return {
    ...headers,
    attach: 'device',

    async unlock(disk, medium, key) {
      await mappings.close(mappings.nameOf(disk), `Unlocking disk ${disk.id}`);
      const facts = await headers.inspect(disk, medium);
      const opening = {
        args: ['--type', 'luks1'],
        resize: true,
        medium: pathOf(medium.attachment),
        uuidPrefix: `CRYPT-LUKS1-${facts.uuid.replaceAll('-', '')}-`,
        cipher: facts.cipher,
        offsetBytes: facts.payloadOffsetBytes,
        sectorBytes: SECTOR,
      };
      return await openMapping(mappings, disk, opening, key, options);
    },

    lock: (disk) => mappings.close(mappings.nameOf(disk), `Locking disk ${disk.id}`),
    suspend: (disk) => suspendMapping(mappings, disk),
    resume: (disk, _medium, key) => resumeLuks(mappings, disk, key),
    unlocked: async () => (await mappings.list()).map(({ diskId }) => diskId),
  };
}
