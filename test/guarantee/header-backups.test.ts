import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { link, readdir, readFile, truncate } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import type { Answer } from '#cli/cloud/client.ts';
import type { HostPath } from '#core/ids.ts';
import { LUKS1_HEADER_BYTES, LUKS2_HEADER_BYTES } from '#core/sizes.ts';
import { headerInFile } from '#host/storage/header-file.ts';
import { qcow2Storage } from '#host/storage/qcow2/driver.ts';
import { rawStorage } from '#host/storage/raw/driver.ts';
import { rbdStorage } from '#host/storage/rbd/driver.ts';
import type { HeaderRegion } from '#host/storage/storage-driver.ts';
import { expectBooted } from '#test/support/boot-guest.ts';
import { nightlatch } from '#test/support/nightlatch-command.ts';
import { poolOf } from '#test/support/pool.ts';
import { findStrays } from '#test/support/strays.ts';
import { isInPool, isOnLogicalVolumes, providerUnderTest } from '#test/support/volume-backends.ts';
import { VolumesAndServers } from '#test/support/volumes-and-servers.ts';

/** Two copies of the metadata, as cryptsetup makes them; the key material follows. */
const LUKS2_METADATA_BYTES = 32 * 1024;
const isWhole = process.env.NIGHTLATCH_TEST_DEPTH === 'all';

/** A header that is lost comes back; a kept one lives no longer than the secret that opens it. */
describe('the headers of volumes are kept', { timeout: isOnLogicalVolumes ? 7_200_000 : 900_000 }, () => {
  let lab: VolumesAndServers;
  let flavor: string;
  let image: string;
  before(async () => {
    lab = await VolumesAndServers.open({
      imagesType: 'raw',
      shutdownTimeout: 0,
      backends: { files: 'raw', layered: 'qcow2' },
    });
    await lab.addEncryptedType('raw', { volume_backend_name: 'files' });
    await lab.addEncryptedType('qcow2', { volume_backend_name: 'layered' });
    flavor = await lab.servers.addFlavor({ 'hw:ephemeral_encryption': 'true' }, { ephemeral: 0, swap: 0 });
    image = await lab.servers.addBootImage();
  });
  after(() => lab[Symbol.asyncDispose]());

  const header = (verb: 'list' | 'restore', ...args: string[]) =>
    nightlatch('volume', 'header', verb, ...args, '--config', lab.servers.service.configFile);
  const versions = async (volume: string) => {
    const { code, stdout, stderr } = await header('list', volume, '-f', 'json');
    assert.equal(code, 0, stderr);
    return (JSON.parse(stdout) as { version: number; secret: string; current: boolean }[]).map(
      ({ version, secret, current }) => [version, secret, current] as const,
    );
  };
  const regionOf = async (volume: string): Promise<HeaderRegion> => {
    const disk = await lab.diskOf(volume);
    const at = (name: string) => join(lab.servers.service.stateDirectory, name) as HostPath;
    const disksDirectory = at(`volumes/${disk.backend}`);
    if (disk.storage === 'lvm') {
      const length = disk.encryption === 'luksv2' ? LUKS2_HEADER_BYTES : LUKS1_HEADER_BYTES;
      return headerInFile({ path: await lab.mediumOf(volume), offset: 0, length });
    }
    if (disk.storage === 'rbd') {
      const runDirectory = lab.servers.service.directory as HostPath;
      return await rbdStorage({ pool: poolOf(disk.backend), runDirectory }).headerRegion(disk);
    }
    if (disk.storage === 'raw') return await rawStorage({ disksDirectory }).headerRegion(disk);
    return await qcow2Storage({ disksDirectory, cacheDirectory: at('cache/storage') }).headerRegion(disk);
  };
  const overwrite = async (volume: string, fill: (bytes: number) => Buffer, from = 0) => {
    const region = await regionOf(volume);
    await region.write([{ at: from, bytes: fill(region.length - from) }]);
  };
  const keptOf = async (owner: string): Promise<string[]> => {
    const folder = join(lab.servers.service.stateDirectory, 'headers', (await lab.diskOf(owner)).id);
    return (await readdir(folder)).map((name) => join(folder, name));
  };
  const start = (server: string) => lab.servers.cloud.act(server, { 'os-start': null });
  const fails = async (server: string, expected: RegExp) => {
    await lab.servers.cloud.waitForStatus(server, 'SHUTOFF');
    const { fault } = await lab.servers.cloud.server(server);
    assert.match(fault?.message ?? '', expected);
  };

  // On logical volumes there is one kind of backend, whatever its name.
  const backends = isOnLogicalVolumes || isInPool ? ['raw'] : isWhole ? ['raw', 'qcow2'] : ['qcow2'];
  for (const storage of backends) {
    test(`${isOnLogicalVolumes ? 'lvm' : isInPool ? 'rbd' : storage}: a boot volume whose header is wiped is told, with the command that brings it back; then its guest boots`, async () => {
      const volume = await lab.addVolume({ name: `root ${storage}`, volume_type: storage, imageRef: image });
      const secret = await lab.secretOf(volume);
      assert.deepEqual(await versions(volume), [[1, secret, true]]);
      const rekeyed = await nightlatch('volume', 'rekey', volume, '--config', lab.servers.service.configFile);
      assert.equal(rekeyed.code, 0, rekeyed.stderr);
      const next = await lab.secretOf(volume);
      assert.notEqual(next, secret);
      assert.deepEqual(await versions(volume), [[2, next, true]], 'what the former secret opens is gone');
      const mapping = { boot_index: 0, uuid: volume, source_type: 'volume', destination_type: 'volume' };
      const wanted = { name: storage, flavorRef: flavor, networks: 'none', block_device_mapping_v2: [mapping] };
      const { server } = await lab.servers.cloud.expect('compute', 'POST', '/v2.1/servers', {
        body: { server: wanted },
      });
      await lab.servers.cloud.waitForStatus(server.id, 'ACTIVE');
      await expectBooted(lab.servers.cloud, server.id);
      const running = await header('restore', volume);
      assert.equal(running.code, 1);
      assert.match(running.stderr, /is open \(server .* runs with it\)/);
      await lab.servers.cloud.act(server.id, { 'os-stop': null });
      await lab.servers.cloud.waitForStatus(server.id, 'SHUTOFF');

      await overwrite(volume, (bytes) => Buffer.alloc(bytes));
      await start(server.id);
      await fails(server.id, new RegExp(`version 2 of .* is kept. Run "nightlatch volume header restore ${volume}"`));
      assert.deepEqual(await versions(volume), [[2, next, false]]);
      const restored = await header('restore', volume);
      assert.equal(restored.code, 0, restored.stderr);
      assert.match(restored.stderr, /has version 2 of its header/);
      assert.deepEqual(await versions(volume), [[2, next, true]]);
      await start(server.id);
      await lab.servers.cloud.waitForStatus(server.id, 'ACTIVE');
      await expectBooted(lab.servers.cloud, server.id);
      assert.deepEqual(await findStrays(lab.servers.service), []);

      await lab.servers.cloud.act(server.id, { 'os-stop': null });
      await lab.servers.cloud.waitForStatus(server.id, 'SHUTOFF');
      // The key material alone: it is a header still, and no key opens it.
      await overwrite(volume, randomBytes, providerUnderTest === 'luks2' ? LUKS2_METADATA_BYTES : 4096);
      await start(server.id);
      await fails(server.id, /nightlatch volume header list/);
      assert.equal((await header('restore', volume, '2')).code, 0);
      assert.deepEqual(await versions(volume), [
        [2, next, true],
        [3, next, false],
      ]);
      assert.equal((await header('restore', volume, '3')).code, 1, 'what no key opens is not written');
      assert.deepEqual((await versions(volume))[0], [2, next, true]);
      await start(server.id);
      await lab.servers.cloud.waitForStatus(server.id, 'ACTIVE');
      await expectBooted(lab.servers.cloud, server.id);
      await lab.servers.delete(server.id);
      await lab.delete('volume', volume);
      assert.deepEqual(await findStrays(lab.servers.service), []);
    });
  }

  test('attaching a volume without its header fails in words that say how to have it back', async () => {
    const server = await lab.servers.create(flavor, image);
    const volume = await lab.addVolume({ name: 'data', volume_type: 'raw' });
    await overwrite(volume, (bytes) => Buffer.alloc(bytes));
    const body = { volumeAttachment: { volumeId: volume } };
    await lab.servers.cloud.expect('compute', 'POST', `/v2.1/servers/${server}/os-volume_attachments`, { body });
    await lab.reach('volume', volume, 'available');
    const { messages } = await lab.must('GET', '/messages');
    assert.match(messages[0].user_message, new RegExp(`no readable LUKS2? header .*header restore ${volume}"`));
    assert.equal((await header('restore', volume)).code, 0);
    await lab.attach(server, volume);
    await lab.servers.delete(server);
    await lab.delete('volume', volume);
    assert.deepEqual(await findStrays(lab.servers.service), []);
  });

  test('a backup that is damaged is refused, and nothing is written', async () => {
    const volume = await lab.addVolume({ name: 'data', volume_type: 'raw' });
    const [kept = ''] = await keptOf(volume);
    await overwrite(volume, (bytes) => Buffer.alloc(bytes));
    await truncate(kept, 8192);
    const { code, stderr } = await header('restore', volume);
    assert.equal(code, 1);
    assert.match(stderr, /does not have version 1/);
    const region = await regionOf(volume);
    assert.ok((await region.read()).equals(Buffer.alloc(region.length)));
    const missing = await header('restore', volume, '7');
    assert.match(missing.stderr, /no header backup of version 7/);
    assert.equal((await header('restore', volume, 'last')).code, 2);
    await lab.delete('volume', volume);
    assert.deepEqual(await findStrays(lab.servers.service), []);
  });

  test('what a secret opens is overwritten before it: by a rekey, by a transfer with its snapshot, by a deletion', async () => {
    const volume = await lab.addVolume({ name: 'given', volume_type: 'raw' });
    const snapshot = await lab.addSnapshot(volume, { name: 'then' });
    const folder = lab.servers.service.stateDirectory;
    let count = 0;
    /** Whoever holds on to the file sees what became of it. */
    const holdOn = async (owner: string) => {
      const [path = ''] = await keptOf(owner);
      const held = join(folder, `held-${++count}`);
      await link(path, held);
      const before = await readFile(held);
      return async () => {
        const now = await readFile(held);
        assert.ok(!now.subarray(0, 592).equals(before.subarray(0, 592)), 'the header is overwritten');
        let [material, same] = [0, 0];
        for (let at = 4096; at < before.length; at++) {
          if (before[at] === 0) continue;
          material++;
          if (now[at] === before[at]) same++;
        }
        assert.ok(material > 200_000, `only ${material} bytes of key material were kept`);
        assert.ok(same < 4096, `${same} bytes of key material are as they were`);
      };
    };
    const gone = [await holdOn(volume), await holdOn(snapshot)];
    const donors = [await lab.secretOf(volume), await lab.secretOf(snapshot)];
    const { transfer } = await lab.must('POST', '/volume-transfers', { transfer: { volume_id: volume } });
    await lab.must('POST', `/volume-transfers/${transfer.id}/accept`, { accept: { auth_key: transfer.auth_key } });
    await lab.reach('volume', volume, 'available');
    for (const isGone of gone) await isGone();
    for (const owner of [volume, snapshot]) {
      const names = (await keptOf(owner)).map((path) => path.slice(path.lastIndexOf('/') + 1));
      assert.deepEqual(names, [`2-${await lab.secretOf(owner)}`]);
      assert.ok(!donors.includes(await lab.secretOf(owner)));
    }
    assert.deepEqual(await findStrays(lab.servers.service), []);
    const deleted = [await holdOn(snapshot), await holdOn(volume)];
    await lab.delete('snapshot', snapshot);
    await lab.delete('volume', volume);
    for (const isGone of deleted) await isGone();
    assert.equal(await lab.countSecrets(), 0);
    assert.deepEqual(await findStrays(lab.servers.service), []);
  });

  test('of a volume without a header there is nothing to list, and it says so', async () => {
    const volume = await lab.addVolume({ name: 'clear' });
    const answer: Answer = await lab.ask('POST', `/volumes/${volume}/action`, { 'nightlatch:header_backups': null });
    assert.equal(answer.status, 400);
    const { code, stderr } = await header('restore', volume);
    assert.equal(code, 1);
    assert.match(stderr, /is not encrypted/);
    await lab.delete('volume', volume);
  });
});
