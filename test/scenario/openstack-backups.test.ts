import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { open, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { LUKS1_HEADER_BYTES, MIB } from '#core/sizes.ts';
import { CLOUD_NAME } from '#main/clouds-yaml.ts';
import { ObjectStore } from '#test/support/object-store.ts';
import { type OpenStackClient, openStackClient } from '#test/support/openstack-client.ts';
import { findStrays } from '#test/support/strays.ts';
import { VolumesAndServers } from '#test/support/volumes-and-servers.ts';
import { waitUntil } from '#test/support/wait.ts';

/** Backups by the real client: encrypted under keys of their own, whole and incremental, and restored. */
describe('openstack volume backup', { timeout: 600_000 }, () => {
  let lab: VolumesAndServers;
  let openstack: OpenStackClient;
  let volume: string;
  before(async () => {
    lab = await VolumesAndServers.open({ localHost: true });
    await lab.addEncryptedType('secret');
    openstack = openStackClient(lab.servers.service.stateDirectory, CLOUD_NAME);
    volume = await lab.addVolume({ name: 'data', volume_type: 'secret' });
    await write(volume, 100, 'first');
  });
  after(() => lab[Symbol.asyncDispose]());

  /** Changes ciphertext, as a guest's write does. */
  const write = async (owner: string, atMib: number, text: string) => {
    await using file = await open(await lab.mediumOf(owner), 'r+');
    await file.write(createHash('sha512').update(text).digest(), 0, 64, LUKS1_HEADER_BYTES + atMib * MIB);
    await file.sync();
  };
  const read = async (owner: string, atMib: number) => {
    await using file = await open(await lab.mediumOf(owner), 'r');
    const { buffer } = await file.read(Buffer.alloc(64), 0, 64, LUKS1_HEADER_BYTES + atMib * MIB);
    return buffer.toString('hex');
  };
  const hash = (text: string) => createHash('sha512').update(text).digest('hex');
  const secretOf = async (backup: string) => {
    const row = lab.servers.db
      .selectFrom('backups')
      .select('secret_id')
      .where('id', '=', backup as never);
    return (await row.executeTakeFirstOrThrow()).secret_id;
  };

  it('create: its secret is its own, its bytes are stored, nothing else is left', async () => {
    await openstack.does('volume', 'backup', 'create', '--name', 'whole', 'data');
    const id = (await lab.find('backup', 'whole')) ?? '';
    await lab.reach('backup', id, 'available');
    await lab.reach('volume', volume, 'available');
    assert.notEqual(await secretOf(id), null);
    assert.notEqual(await secretOf(id), await lab.secretOf(volume));
    assert.deepEqual(await findStrays(lab.servers.service), []);
  });

  it('create --incremental: stores what changed, and keeps the one it builds on', async () => {
    await write(volume, 200, 'second');
    await openstack.does('volume', 'backup', 'create', '--incremental', '--name', 'part', 'data');
    const part = (await lab.find('backup', 'part')) ?? '';
    await lab.reach('backup', part, 'available');
    await lab.reach('volume', volume, 'available');
    const shown = (await openstack.json('volume', 'backup', 'show', 'part')) as Record<string, unknown>;
    assert.equal(shown.is_incremental, true);
    // The header, the changed chunk and the list.
    assert.equal(shown.object_count, 3);
    assert.match(await openstack.fails('volume', 'backup', 'delete', 'whole'), /Incremental backups exist/);
    assert.deepEqual(await findStrays(lab.servers.service), []);
  });

  it('restore: to a volume of its own, and over the volume itself; each has its own key then', async () => {
    const whole = (await lab.find('backup', 'whole')) ?? '';
    const { restore } = await lab.must('POST', `/backups/${whole}/restore`, { restore: { name: 'other' } });
    await lab.reach('volume', restore.volume_id, 'available');
    assert.equal(await read(restore.volume_id, 100), hash('first'));
    assert.notEqual(await read(restore.volume_id, 200), hash('second'));
    await write(volume, 100, 'third');
    const before = await lab.secretOf(volume);
    const part = (await lab.find('backup', 'part')) ?? '';
    // Debian 12's client asks for it and then fails to print the answer.
    await lab.must('POST', `/backups/${part}/restore`, { restore: { volume_id: volume } });
    await lab.reach('volume', volume, 'available');
    assert.deepEqual([await read(volume, 100), await read(volume, 200)], [hash('first'), hash('second')]);
    assert.notEqual(await lab.secretOf(volume), before);
    for (const owner of [volume, restore.volume_id]) {
      assert.equal(await lab.opens((await lab.secretOf(owner)) as never, await lab.mediumOf(owner)), true);
    }
    assert.equal(await lab.opens((await secretOf(part)) as never, await lab.mediumOf(volume)), false);
    assert.deepEqual(await findStrays(lab.servers.service), []);
  });

  it('delete: objects and secrets are gone', async () => {
    for (const name of ['part', 'whole']) {
      const id = (await lab.find('backup', name)) ?? '';
      await openstack.does('volume', 'backup', 'delete', name);
      await lab.reach('backup', id, 'gone');
    }
    assert.equal(await lab.countSecrets(), 2);
    assert.deepEqual(await findStrays(lab.servers.service), []);
  });
});

/** Enough for an upload to be cut in its midst. */
const FILLED_MIB = 64;

describe('openstack volume backup, to an object store', { timeout: 600_000 }, () => {
  let lab: VolumesAndServers;
  let store: ObjectStore;
  let volume: string;
  before(async () => {
    store = await ObjectStore.start();
    const file = join(store.folder, 'secret-key');
    await writeFile(file, store.secretKey, { mode: 0o600 });
    lab = await VolumesAndServers.open({ more: backupGroup(store, file) });
    await lab.addEncryptedType('secret');
    volume = await lab.addVolume({ name: 'data', volume_type: 'secret' });
    await fill(FILLED_MIB);
  });
  after(async () => {
    await lab[Symbol.asyncDispose]();
    await store[Symbol.asyncDispose]();
  });

  const fill = async (mib: number) => {
    await using file = await open(await lab.mediumOf(volume), 'r+');
    await file.write(randomBytes(mib * MIB), 0, mib * MIB, LUKS1_HEADER_BYTES);
    await file.sync();
  };
  const expectTidy = async () =>
    assert.deepEqual(await findStrays(lab.servers.service, undefined, await store.folders()), []);

  // What it is made of is in test/contract/backup-store.test.ts too.
  const isWhole = process.env.NIGHTLATCH_TEST_DEPTH === 'all';
  const inWhole = isWhole ? it : () => {};
  inWhole(
    'whole, then incremental, then restored; the bytes are ciphertext of the volume, under other keys',
    async () => {
      const whole = await lab.addBackup(volume, { name: 'whole' });
      await fill(8);
      const part = await lab.addBackup(volume, { name: 'part', incremental: true });
      assert.deepEqual((await store.folders()).sort(), [whole, part].sort());
      await expectTidy();
      const { restore } = await lab.must('POST', `/backups/${part}/restore`, { restore: { name: 'other' } });
      await lab.reach('volume', restore.volume_id, 'available');
      const [original, restored] = await Promise.all([volume, restore.volume_id].map(payloadOf));
      assert.equal(restored, original);
      for (const id of [part, whole]) await lab.delete('backup', id);
      assert.deepEqual(await store.folders(), []);
      await lab.delete('volume', restore.volume_id);
      await expectTidy();
    },
  );

  it('a store that goes in the midst: the backup is in error and says why, and is deleted when the store is back', async () => {
    const secrets = await lab.countSecrets();
    const { backup } = await lab.must('POST', '/backups', { backup: { volume_id: volume, name: 'cut' } });
    await waitUntil('some of it is stored', async () => (await store.folders()).includes(backup.id));
    await store.stop();
    await waitUntil('it failed', async () => (await lab.show('backup', backup.id)).status === 'error', 60_000);
    assert.match((await lab.show('backup', backup.id)).fail_reason, /ECONNREFUSED|did not answer as it should/);
    await lab.reach('volume', volume, 'available');
    assert.equal(await lab.countSecrets(), secrets);
    await store.launch();
    assert.deepEqual(await store.folders(), [backup.id], 'what was stored is still there');
    await lab.delete('backup', backup.id);
    assert.deepEqual(await store.folders(), []);
    await expectTidy();
  });

  /** Of the medium behind its header. */
  const payloadOf = async (id: string) => {
    await using file = await open(await lab.mediumOf(id), 'r');
    const bytes = (FILLED_MIB + 1) * MIB;
    const { buffer } = await file.read(Buffer.alloc(bytes), 0, bytes, LUKS1_HEADER_BYTES);
    return createHash('sha256').update(buffer).digest('hex');
  };
});

function backupGroup({ url, accessKey }: ObjectStore, secretKeyFile: string): string {
  return [
    '[backup]',
    'backup_driver = "s3"',
    `backup_s3_endpoint_url = "${url}"`,
    `backup_s3_store_access_key = "${accessKey}"`,
    `backup_s3_store_secret_key_file = "${secretKeyFile}"`,
    'backup_s3_timeout = 5',
    'backup_s3_retry_max_attempts = 2',
  ].join('\n');
}
