import type { DiskSpec } from '#core/disk.ts';
import { NightlatchError } from '#core/errors.ts';
import { type MappingOptions, openMapping } from '#host/encryption/dm-crypt/opening.ts';
import { sectorBytesFor } from '#host/encryption/dm-crypt/sectors.ts';
import type { Encryptor, Medium } from '#host/encryption/encryptor.ts';
import { pathOf } from '#host/storage/attachment.ts';
import type { Mappings } from './mappings.ts';
import { resumePlain, suspendMapping } from './suspending.ts';

/** What a plain disk is opened with; it has no header to keep it in. */
export type PlainParameters = {
  readonly cipher: string;
  /** Bits of the key the cipher gets; 512 is AES-256-XTS. */
  readonly keyBits: number;
  readonly hash: string;
  readonly sectorBytes: number;
};

/**
 * The key of the cipher is this hash of the passphrase, cut to length: one round makes all 512 bits. It is always given,
 * because cryptsetup's default changed in 2.7.
 */
const HASH = 'sha512';
const NOTE = /^plain:([a-z0-9-]+):(\d+):([a-z0-9]+):(512|4096)$/;

/** The parameters of a new disk, as its storage driver notes them at its medium (`HeaderRegion.note`). */
export function plainNote(disk: DiskSpec, { cipher, keyBits }: { cipher: string; keyBits: number }): string {
  return `plain:${cipher}:${keyBits}:${HASH}:${sectorBytesFor(disk.sizeBytes)}`;
}

/** Null: this is no note of a plain disk. */
export function parsePlainNote(note: string): PlainParameters | null {
  const [, cipher, keyBits, hash, sectorBytes] = NOTE.exec(note) ?? [];
  if (!cipher || !keyBits || !hash || !sectorBytes) return null;
  return { cipher, keyBits: Number(keyBits), hash, sectorBytes: Number(sectorBytes) };
}

/**
 * dm-crypt without a header: nothing on the medium tells it from noise, and nothing tells a wrong key from the right one.
 * What protects from a wrong key is that each disk has its own, found by the disk's id, and that a disk is filled only in
 * its recorded state `key-stored`: a wrong key shows noise and is no reason to write.
 */
export function plainEncryptor(mappings: Mappings, options: MappingOptions): Encryptor {
  return {
    attach: 'device',

    async format(disk, medium) {
      // A mapping over whatever lies there is all there is.
      parametersOf(disk, medium);
    },

    async unlock(disk, medium, key) {
      const { cipher, keyBits, hash, sectorBytes } = parametersOf(disk, medium);
      await mappings.close(mappings.nameOf(disk), `Unlocking disk ${disk.id}`);
      const how = ['--cipher', cipher, '--key-size', String(keyBits), '--hash', hash];
      const opening = {
        args: ['--type', 'plain', ...how, '--sector-size', String(sectorBytes)],
        resize: false,
        medium: pathOf(medium.attachment),
        uuidPrefix: 'CRYPT-PLAIN-',
        cipher,
        offsetBytes: 0,
        sectorBytes,
      };
      return await openMapping(mappings, disk, opening, key, options);
    },

    lock: (disk) => mappings.close(mappings.nameOf(disk), `Locking disk ${disk.id}`),
    suspend: (disk) => suspendMapping(mappings, disk),
    resume: (disk, medium, key) => resumePlain(mappings, disk, parametersOf(disk, medium), key),
    unlocked: async () => (await mappings.list()).map(({ diskId }) => diskId),

    async inspect(disk, medium) {
      const { cipher, keyBits } = parametersOf(disk, medium);
      return { format: 'plain', version: 0, uuid: '', cipher, keyBits, payloadOffsetBytes: 0, activeKeySlots: [] };
    },

    async destroy() {
      // Without its key the disk is noise already.
    },
  };
}

function parametersOf(disk: DiskSpec, { header }: Medium): PlainParameters {
  const parameters = parsePlainNote(header.note ?? '');
  if (parameters !== null) return parameters;
  const reason = 'carries no note of how it was encrypted';
  throw new NightlatchError('disk-missing', { disk: disk.id, path: header.place, reason });
}
