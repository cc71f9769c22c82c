import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type DiskId, newId, type ServerId } from '#core/ids.ts';
import { Secret } from '#core/secret.ts';
import { Mappings } from '#host/encryption/dm-crypt/mappings.ts';
import { resumePlain } from '#host/encryption/dm-crypt/suspending.ts';

/** What a kernel had in its table for a mapping that cryptsetup 2.6.1 opened with this passphrase on its stdin. */
const PASSPHRASE = 'a'.repeat(64);
const KEY =
  '01d35c10c6c38c2dcf48f7eebb3235fb5ad74a65ec4cd016e2354c637a8fb49b695ef3c1d6f7ae4cd74d78cc9c9bcac9d4f23a73019998a7f73038a5c9b2dbde';
const tableWith = (key: string) => `0 131072 crypt aes-xts-plain64 ${key} 0 254:1 0 1 sector_size:4096\n`;

test('a plain disk gets back the table that cryptsetup gave it, key included', async () => {
  const disk = {
    id: newId<DiskId>(),
    ownerId: newId<ServerId>(),
    backend: null,
    ...({
      role: 'root',
      ordinal: 0,
      generation: 0,
      sizeBytes: 64 * 1024 ** 2,
      storage: 'lvm',
      encryption: 'plain',
      secretId: null,
    } as const),
  };
  const loaded: string[] = [];
  class Suspended extends Mappings {
    override async find(name: string) {
      const owner = { ownerId: disk.ownerId, diskId: disk.id };
      return { name, uuid: `CRYPT-PLAIN-${name}`, ...owner, isOpen: true, isSuspended: loaded.length === 0 };
    }
    override async tableLine() {
      return tableWith('0'.repeat(KEY.length));
    }
    override async replaceTable(_name: string, table: Secret) {
      loaded.push(table.use((bytes) => bytes.toString('latin1')));
    }
  }
  using key = Secret.adopt(Buffer.from(PASSPHRASE, 'latin1'));
  const parameters = { cipher: 'aes-xts-plain64', keyBits: 512, hash: 'sha512', sectorBytes: 4096 };
  const mappings = new Suspended();
  for (const _ of [1, 2]) await resumePlain(mappings, disk, parameters, key);
  assert.deepEqual(loaded, [tableWith(KEY)]);
  loaded.length = 0;
  await assert.rejects(
    resumePlain(mappings, disk, { ...parameters, cipher: 'aes-cbc-essiv' }, key),
    /not what it should be/,
  );
  assert.deepEqual(loaded, []);
});
