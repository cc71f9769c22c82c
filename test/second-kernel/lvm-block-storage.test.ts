import assert from 'node:assert/strict';
import { open, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import type { JsonObject } from '#cli/cloud/client.ts';
import type { EncryptionFormat } from '#core/encryption-intent.ts';
import type { SecretId } from '#core/ids.ts';
import { GIB, LUKS1_HEADER_BYTES } from '#core/sizes.ts';
import { guestsOf } from '#test/support/destroy-state.ts';
import { formatsUnderTest } from '#test/support/disk-lab.ts';
import { startOf } from '#test/support/encrypted-medium.ts';
import { findStrays } from '#test/support/strays.ts';
import { cryptMappings, diskKeysInKeyrings, diskVolumes } from '#test/support/volume-group.ts';
import { isByKernel } from '#test/support/volume-strays.ts';
import { type Kind, PATTERN_BYTES, VolumesAndServers } from '#test/support/volumes-and-servers.ts';

/*
 * Block storage on logical volumes, through the API: whatever is made of a volume has a key of its own, and a volume is
 * open exactly while a guest runs that has it. Each test leaves the server stopped, and the volume called `data` free.
 */

const BYTE = 0xa5;
const isWhole = process.env.NIGHTLATCH_TEST_DEPTH === 'all';
const isNamed = process.env.NIGHTLATCH_TEST_FORMATS !== undefined;
const formats: readonly (EncryptionFormat | null)[] = isNamed
  ? formatsUnderTest
  : isWhole
    ? [...formatsUnderTest, null]
    : ['luksv2'];
const providers = { luks: 'luks', luksv2: 'luks2', plain: 'plain' } as const;

let lab: VolumesAndServers;
let server: string;
let image: string;
before(async () => {
  lab = await VolumesAndServers.open({ imagesType: 'raw', shutdownTimeout: 0, backends: { group: 'lvm' } });
  for (const [name, provider] of Object.entries(providers)) await lab.addEncryptedType(name, {}, provider);
  await lab.must('POST', '/types', { volume_type: { name: 'clear' } });
  const file = join(lab.servers.service.directory, 'pattern.raw');
  await writeFile(file, Buffer.alloc(PATTERN_BYTES, BYTE));
  image = await lab.servers.cloud.uploadImage('pattern', file, 'raw');
  const flavor = await lab.servers.addFlavor({}, { disk: 0, ephemeral: 0, swap: 0 });
  server = await lab.servers.create(flavor, await lab.servers.addBootImage());
  await act({ 'os-stop': null }, 'SHUTOFF');
});
after(() => lab[Symbol.asyncDispose]());

const act = async (action: object, status: string) => {
  await lab.servers.cloud.act(server, action);
  await lab.servers.cloud.waitForStatus(server, status);
};
const start = () => act({ 'os-start': null }, 'ACTIVE');
const stop = () => act({ 'os-stop': null }, 'SHUTOFF');
/** Some changes show in no status. */
const change = async (volume: string, action: object) => {
  await lab.must('POST', `/volumes/${volume}/action`, action);
  await lab.settled();
};
const tidy = async () => assert.deepEqual(await findStrays(lab.servers.service), []);
/** Nothing on the whole host is open, and its kernel has no key. */
const expectLocked = async () => {
  await tidy();
  assert.deepEqual([await cryptMappings(), await diskKeysInKeyrings()], [[], []]);
};
const isSecretThere = async (id: SecretId) => {
  const found = lab.servers.db.selectFrom('secrets').select('id').where('id', '=', id);
  return (await found.execute()).length > 0;
};
/** Read by the kernel's own tools, with the secret of this disk or of another. */
const holdsPattern = async (owner: string, secret?: SecretId | null) =>
  lab.holds(await lab.fileOf(owner), secret === undefined ? await lab.secretOf(owner) : secret, BYTE);
const accept = async (volume: string) => {
  const { transfer } = await lab.must('POST', '/volume-transfers', { transfer: { volume_id: volume } });
  await lab.must('POST', `/volume-transfers/${transfer.id}/accept`, { accept: { auth_key: transfer.auth_key } });
  await lab.reach('volume', volume, 'available');
};

for (const format of formats) {
  const hasHeader = format === 'luks' || format === 'luksv2';
  const isMapped = format !== null && isByKernel({ encryption: format });
  const type = format ?? 'clear';
  /** Of another disk's key: a header refuses it, what has none shows noise. */
  const expectOwnKey = async (owner: string, foreign: readonly (SecretId | null)[]) => {
    assert.equal(await holdsPattern(owner), true);
    if (format === null) return;
    for (const secret of foreign) {
      const opens = hasHeader
        ? await lab.opens(secret as SecretId, await lab.fileOf(owner))
        : holdsPattern(owner, secret);
      assert.equal(await opens, false, 'the key of another opens it');
    }
  };
  /** Its guest has it, in that size; the kernel has its key where it is the one that decrypts. */
  const expectOpen = async (volume: string, sizeGib: number) => {
    await tidy();
    const open = (await cryptMappings()).map(({ name, hasKey }) => [name, hasKey]);
    const name = `nl-${volume}-${(await lab.diskOf(volume)).id}`;
    assert.deepEqual(open, isMapped ? [[name, true]] : []);
    assert.equal(await lab.bytesInGuest(volume), sizeGib * GIB);
  };

  describe(`a volume on logical volumes (${type})`, { timeout: 7_200_000 }, () => {
    let data: string;

    test('is made of an image, or blank; in its group lies nothing of what it holds', async () => {
      data = await lab.addVolume({ name: 'data', volume_type: type, imageRef: image });
      assert.equal(await holdsPattern(data), true);
      const medium = await startOf(await lab.mediumOf(data), 32 * 1024 * 1024);
      assert.equal(medium.includes(Buffer.alloc(64, BYTE)), format === null);
      const blank = await lab.addVolume({ name: 'blank', volume_type: type, size: 2 });
      assert.equal(await holdsPattern(blank), false);
      await expectLocked();
      await lab.delete('volume', blank);
    });

    test('every copy of it has a key of its own: snapshot, clone, backup, and what is made of them', async () => {
      const snapshot = await lab.addSnapshot(data, { name: 'then' });
      const backup = await lab.addBackup(data, { name: 'safe' });
      const copies = [
        snapshot,
        await lab.addVolume({ name: 'clone', source_volid: data }),
        await lab.addVolume({ name: 'of snapshot', snapshot_id: snapshot }),
        await lab.addVolume({ name: 'of backup', volume_type: type, backup_id: backup }),
      ];
      const secrets = await Promise.all([data, ...copies].map((owner) => lab.secretOf(owner)));
      if (format !== null) assert.equal(new Set(secrets).size, secrets.length);
      else assert.deepEqual(new Set(secrets), new Set([null]));
      for (const copy of copies) await expectOwnKey(copy, [await lab.secretOf(data)]);
      await lab.must('POST', `/backups/${backup}/restore`, { restore: { volume_id: data } });
      await lab.reach('volume', data, 'available');
      await expectOwnKey(data, secrets.slice(1));
      assert.equal(secrets[0] != null && (await isSecretThere(secrets[0])), false);
      await expectLocked();
      for (const volume of copies.slice(1)) await lab.delete('volume', volume);
      await lab.delete('snapshot', snapshot);
      await lab.delete('backup', backup);
      await expectLocked();
    });

    if (format !== null) {
      test('given to another, or rekeyed, it has another key, and the old one is gone', async () => {
        const anew = () => change(data, { 'nightlatch:rekey': { volume_key: true } });
        const inHeader = [() => accept(data), () => change(data, { 'nightlatch:rekey': null })];
        for (const rekey of hasHeader ? [...inHeader, anew] : [anew]) {
          const before = (await lab.secretOf(data)) as SecretId;
          const header = hasHeader ? await startOf(await lab.mediumOf(data)) : null;
          await rekey();
          await lab.reach('volume', data, 'available');
          assert.equal(await isSecretThere(before), false);
          assert.equal(await holdsPattern(data), true);
          assert.ok(header === null || !header.equals(await startOf(await lab.mediumOf(data))));
        }
        await expectLocked();
      });
    }

    if (hasHeader) {
      test('its header is wiped: no guest gets it, and it comes back', async () => {
        await using file = await open(await lab.mediumOf(data), 'r+');
        // Of LUKSv1 all of it, of LUKS2 both copies of what it says.
        await file.write(Buffer.alloc(LUKS1_HEADER_BYTES), 0, LUKS1_HEADER_BYTES, 0);
        await file.sync();
        await file.close();
        await lab.attach(server, data);
        await lab.servers.cloud.act(server, { 'os-start': null });
        await lab.servers.cloud.waitForStatus(server, 'SHUTOFF');
        assert.match((await lab.servers.cloud.server(server)).fault.message, /nightlatch volume header restore/);
        await expectLocked();
        await change(data, { 'nightlatch:restore_header': {} });
        await start();
        await expectOpen(data, 1);
        await stop();
        await lab.detach(server, data);
        assert.equal(await holdsPattern(data), true);
        await expectLocked();
      });
    }

    test('is open while a guest runs that has it: attached to it, grown, detached from it', async () => {
      await start();
      await lab.attach(server, data);
      await expectOpen(data, 1);
      await change(data, { 'os-extend': { new_size: 2 } });
      await lab.reach('volume', data, 'in-use');
      // Under a guest QEMU cannot grow what it decrypts there.
      const isGrown = format !== 'luks' || isMapped;
      await expectOpen(data, isGrown ? 2 : 1);
      const { messages } = await lab.must('GET', `/messages?resource_uuid=${data}`);
      const refusals = messages.filter(({ user_message }: JsonObject) => /QEMU decrypts/.test(user_message));
      assert.equal(refusals.length, isGrown ? 0 : 1);
      if (hasHeader) {
        const before = (await lab.secretOf(data)) as SecretId;
        await change(data, { 'nightlatch:rekey': null });
        await lab.reach('volume', data, 'in-use');
        assert.equal(await isSecretThere(before), false);
        await tidy();
      }
      await lab.detachFromGuest(server, data);
      await expectLocked();
      await change(data, { 'os-extend': { new_size: 3 } });
      await lab.reach('volume', data, 'available');
      await lab.attach(server, data);
      await expectOpen(data, 3);
      await lab.detachFromGuest(server, data);
      await stop();
      assert.equal(await holdsPattern(data), true);
      await expectLocked();
    });

    test('is locked with its server, whatever ends that, and open with it', async () => {
      await lab.attach(server, data);
      await expectLocked();
      await start();
      await expectOpen(data, 3);
      await lab.servers.service.end('SIGKILL');
      await lab.servers.service.launch();
      lab.servers.cloud = await lab.servers.service.client();
      await expectOpen(data, 3);
      for (const pid of await guestsOf(lab.servers.service.stateDirectory)) process.kill(pid, 'SIGKILL');
      await lab.servers.cloud.waitForStatus(server, 'SHUTOFF');
      await expectLocked();
      await start();
      await expectOpen(data, 3);
      await stop();
      await expectLocked();
      await lab.detach(server, data);
    });

    if (format !== null) {
      test('is retyped to clear and back, free and under its guest: it is as large, and encrypted under another key', async () => {
        const volume = await lab.addVolume({ name: 'moving', volume_type: type, imageRef: image });
        const retype = async (to: string, status: string) => {
          await change(volume, { 'os-retype': { new_type: to, migration_policy: 'on-demand' } });
          await lab.reach('volume', volume, status);
          assert.equal((await lab.show('volume', volume)).volume_type, to);
        };
        const first = await lab.secretOf(volume);
        await retype('clear', 'available');
        assert.deepEqual([await lab.secretOf(volume), await holdsPattern(volume)], [null, true]);
        await retype(type, 'available');
        await expectOwnKey(volume, []);
        await expectLocked();
        await start();
        await lab.attach(server, volume);
        await retype('clear', 'in-use');
        assert.deepEqual([await lab.bytesInGuest(volume), await cryptMappings()], [GIB, []]);
        await tidy();
        await retype(type, 'in-use');
        await expectOpen(volume, 1);
        await lab.detachFromGuest(server, volume);
        await stop();
        await expectOwnKey(volume, []);
        assert.notEqual(await lab.secretOf(volume), first);
        await lab.delete('volume', volume);
        await expectLocked();
      });
    }

    test('deleted, its header is destroyed before it goes, and its secret with it', async () => {
      const medium = await lab.mediumOf(data);
      const header = await startOf(medium);
      assert.equal(header.includes('LUKS\xba\xbe', 0, 'latin1'), hasHeader);
      let left = header;
      const remove = () => lab.must('DELETE', `/volumes/${data}`);
      await lab.crashAt('agent.destroy-disk.header-destroyed', remove, async () => {
        left = await startOf(medium);
      });
      if (hasHeader)
        assert.equal(/(LUKS|SKUL)\xba\xbe/.test(left.toString('latin1')), false, 'there is a header still');
      await lab.reach('volume', data, 'gone');
      assert.deepEqual([await diskVolumes(), await lab.countSecrets()], [[], 0]);
      await expectLocked();
    });
  });
}

test('nothing is left in the group', async () => {
  for (const kind of ['volume', 'snapshot', 'backup'] satisfies Kind[])
    assert.deepEqual((await lab.must('GET', `/${kind}s`))[`${kind}s`], []);
  assert.deepEqual([await diskVolumes(), await cryptMappings()], [[], []]);
});
