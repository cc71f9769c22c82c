import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { chmod, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { after, before, describe, it } from 'node:test';
import { openBackup, removeBackup, storeBackup } from '#backups/backup-chunks.ts';
import type { BackupStore } from '#backups/backup-store.ts';
import { directoryStore } from '#backups/directory-store.ts';
import { s3Store } from '#backups/s3-store.ts';
import { type Config, configSchema } from '#config/schema.ts';
import { type ErrorCode, NightlatchError } from '#core/errors.ts';
import { type BackupId, type HostPath, newId } from '#core/ids.ts';
import { MIB } from '#core/sizes.ts';
import { openBackupStore } from '#main/backup-store.ts';
import { ObjectStore } from '#test/support/object-store.ts';

const is = (code: ErrorCode, text: RegExp) => (error: unknown) =>
  error instanceof NightlatchError && error.code === code && text.test(error.message);

let directory: string;
let server: ObjectStore;
before(async () => {
  directory = await mkdtemp(join(tmpdir(), 'nightlatch-backups-'));
  server = await ObjectStore.start();
});
after(async () => {
  await server[Symbol.asyncDispose]();
  await rm(directory, { recursive: true });
});

/** One try each, so that what fails fails at once. */
const optionsFor = ({ url, bucket, accessKey, secretKey }: ObjectStore) => ({
  ...{ endpointUrl: url, bucket, accessKey, secretKey, region: 'us-east-1' },
  ...{ timeoutMs: 2000, attempts: 1, certificates: null },
});

const stores: Readonly<Record<string, () => BackupStore & Disposable>> = {
  'a directory': () => ({ ...directoryStore(directory as HostPath), [Symbol.dispose]: () => {} }),
  'a bucket': () => s3Store(optionsFor(server)),
};

for (const [place, open] of Object.entries(stores)) {
  describe(`a backup store in ${place}`, { timeout: 120_000 }, () => {
    let store: BackupStore & Disposable;
    before(() => {
      store = open();
    });
    after(() => store[Symbol.dispose]());

    it('gives back what was put, the latest of several', async () => {
      const bytes = randomBytes(9 * MIB);
      await store.put('one/00000000', randomBytes(100));
      await store.put('one/00000000', bytes);
      assert.ok((await store.get('one/00000000')).equals(bytes));
      await store.put('one/empty', Buffer.alloc(0));
      assert.equal((await store.get('one/empty')).length, 0);
    });

    it('says that there is no such object', async () => {
      await assert.rejects(store.get('one/none'), is('backup-damaged', /one\/none/));
      await assert.rejects(store.get('none/none'), is('backup-damaged', /none\/none/));
    });

    it('removes a folder and nothing beside it, also a large one, also when it is gone', async () => {
      await store.put('two-a/kept', Buffer.from('kept'));
      for (let at = 0; at < 24; at++) await store.put(`two/${at}`, Buffer.from([at]));
      await store.deleteAll('two');
      await store.deleteAll('two');
      for (const at of [0, 23]) await assert.rejects(store.get(`two/${at}`), is('backup-damaged', /two/));
      assert.equal((await store.get('two-a/kept')).toString(), 'kept');
    });

    it('takes no name that is a path to elsewhere', async () => {
      for (const name of ['../x', 'a/../x', '/x', 'a//x', 'A', '']) {
        await assert.rejects(store.put(name, Buffer.from('x')), /no name of a backup object/);
        await assert.rejects(store.deleteAll(name), /no name of a backup object/);
      }
    });

    it('keeps whole and incremental backups, and tells one that was damaged', async () => {
      const bytes = Buffer.concat([randomBytes(9 * MIB), Buffer.alloc(8 * MIB), randomBytes(1000)]);
      const [whole, part] = [newId<BackupId>(), newId<BackupId>()];
      await storeBackup(store, whole, Readable.from([bytes]), null);
      const changed = Buffer.from(bytes);
      changed.write('changed', 17 * MIB + 10);
      const stored = await storeBackup(store, part, Readable.from([changed]), whole);
      assert.equal(stored.objects, 2, 'the last chunk and the list');
      const restored = Buffer.concat(await Array.fromAsync((await openBackup(store, part)) as AsyncIterable<Buffer>));
      assert.equal(
        createHash('sha256').update(restored).digest('hex'),
        createHash('sha256').update(changed).digest('hex'),
      );
      await store.put(`${whole}/00000000`, randomBytes(8 * MIB));
      const read = async () => Array.fromAsync((await openBackup(store, part)) as AsyncIterable<Buffer>);
      await assert.rejects(read(), is('backup-damaged', /is not what was stored/));
      for (const id of [part, whole]) await removeBackup(store, id);
      await assert.rejects(openBackup(store, whole), is('backup-damaged', /manifest/));
    });
  });
}

describe('an object store that does not do as it should', { timeout: 120_000 }, () => {
  const put = (store: BackupStore) => store.put('three/x', randomBytes(MIB));

  it('that knows no such bucket, or another secret key, has refused', async () => {
    using elsewhere = s3Store({ ...optionsFor(server), bucket: 'none-such' });
    await assert.rejects(
      put(elsewhere),
      is('backup-store-refused', /none-such at .*NoSuchBucket|bucket does not exist/),
    );
    await assert.rejects(elsewhere.get('three/x'), is('backup-store-refused', /bucket/));
    await assert.rejects(elsewhere.deleteAll('three'), is('backup-store-refused', /bucket/));
    using wrong = s3Store({ ...optionsFor(server), secretKey: 'wrong' });
    const refused = is('backup-store-refused', /SignatureDoesNotMatch.*secret key/);
    await assert.rejects(put(wrong), refused);
    await assert.rejects(wrong.get('three/x'), refused);
    assert.doesNotMatch(String(await put(wrong).catch(String)), new RegExp(`wrong"|${server.secretKey}`));
  });

  it('that is gone is unavailable, and has what it had when it is back', async () => {
    using store = s3Store(optionsFor(server));
    await put(store);
    await server.stop();
    const gone = is('backup-store-unavailable', /ECONNREFUSED.*try again/);
    const calls = [put(store), store.get('three/x'), store.deleteAll('three')];
    await Promise.all(calls.map((call) => assert.rejects(call, gone)));
    await server.launch();
    assert.equal((await store.get('three/x')).length, MIB);
  });

  it('that says nothing is unavailable', async () => {
    const sockets: Socket[] = [];
    const silent = createServer((socket) => void sockets.push(socket));
    await new Promise<void>((resolve) => silent.listen(0, '127.0.0.1', resolve));
    const { port } = silent.address() as { port: number };
    using mute = s3Store({ ...optionsFor(server), endpointUrl: `http://127.0.0.1:${port}`, timeoutMs: 300 });
    await assert.rejects(mute.get('three/x'), is('backup-store-unavailable', /did not answer as it should/));
    for (const socket of sockets) socket.destroy();
    silent.close();
  });
});

describe('the backup store that a configuration names', () => {
  const open = (more: object, environment: NodeJS.ProcessEnv = {}) => {
    const config: Config = configSchema.parse({ backup: { backup_driver: 's3', ...more } });
    return openBackupStore(config.backup, directory as HostPath, environment);
  };
  const named = () => ({ backup_s3_endpoint_url: server.url, backup_s3_store_access_key: server.accessKey });

  it('takes the secret key from a file that nobody else reads, or from systemd', async () => {
    const path = join(directory, 'secret-key');
    await writeFile(path, `${server.secretKey}\n`, { mode: 0o600 });
    using store = await open({ ...named(), backup_s3_store_secret_key_file: path });
    await store.put('four/x', Buffer.from('x'));
    await chmod(path, 0o640);
    const refused = is('bad-request', /its mode is 0640. Run: chmod 0600/);
    await assert.rejects(open({ ...named(), backup_s3_store_secret_key_file: path }), refused);
    await writeFile(join(directory, 'nightlatch-backup-s3-secret-key'), server.secretKey);
    using other = await open(named(), { CREDENTIALS_DIRECTORY: directory });
    assert.equal((await other.get('four/x')).toString(), 'x');
  });

  it('says what is missing', async () => {
    await assert.rejects(open({}), is('bad-request', /backup_s3_endpoint_url is empty/));
    await assert.rejects(open({ backup_s3_endpoint_url: server.url }), is('bad-request', /access_key is empty/));
    await assert.rejects(open(named()), is('bad-request', /there is no secret key/));
    const none = { ...named(), backup_s3_store_secret_key_file: '/none' };
    await assert.rejects(open(none), is('bad-request', /\/none.*cannot be opened \(ENOENT\)/));
  });
});
