import assert from 'node:assert/strict';
import { readdir, readFile, writeFile } from 'node:fs/promises';
import { after, before, describe, test } from 'node:test';
import { GIB, LUKS1_HEADER_BYTES } from '#core/sizes.ts';
import { bootSector } from '#test/support/boot-sector.ts';
import { CephCluster } from '#test/support/ceph-cluster.ts';
import { startOf } from '#test/support/encrypted-medium.ts';
import { MoveLab } from '#test/support/move-lab.ts';
import { nightlatch } from '#test/support/nightlatch-command.ts';
import { imageInPool, imagesIn, poolOf, trashOf, usePool } from '#test/support/pool.ts';
import type { VolumesAndServers } from '#test/support/volumes-and-servers.ts';

const BYTE = 0xa5;
/** Cinder's default of rbd_max_clone_depth. */
const MOST_BELOW = 5;
const SECRET_UUID = '0b5c9a3e-7d2f-4c1a-9e8b-6f4d2a1c3e5f';
const isWhole = process.env.NIGHTLATCH_TEST_DEPTH === 'all';
const whole = isWhole ? test : () => {};

/** Two pools of a real cluster, files beside them, and a guest that writes to a volume all the time. */
describe('volumes that are images in a pool', { timeout: 900_000 }, () => {
  let cluster: CephCluster;
  let move: MoveLab;
  let lab: VolumesAndServers;
  let blockDevices: string[];
  const devices = () => readdir('/sys/block');

  before(async () => {
    blockDevices = await devices();
    cluster = await CephCluster.start('volumes', 'others');
    usePool(cluster, 'volumes');
    usePool(cluster, 'others', 'other');
    const backends = { pool: 'rbd', other: 'rbd', files: 'qcow2' } as const;
    const kept = [
      '[volume_backends.kept]',
      'volume_driver = "rbd"',
      `rbd_ceph_conf = "${cluster.conf}"`,
      `rbd_user = "${cluster.user}"`,
      `rbd_secret_uuid = "${SECRET_UUID}"`,
    ];
    move = await MoveLab.open({ backends, more: kept.join('\n') }, 'pool', async (service) => {
      for (const volume_backend_name of [...Object.keys(backends), 'kept']) {
        await service.addEncryptedType(volume_backend_name, { volume_backend_name });
      }
      const extra_specs = { volume_backend_name: 'pool' };
      await service.must('POST', '/types', { volume_type: { name: 'clear', extra_specs } });
    });
    lab = move.lab;
  });
  after(async () => {
    await move?.[Symbol.asyncDispose]();
    await cluster?.[Symbol.asyncDispose]();
  });

  const rbd = (...args: string[]) => cluster.rbd(...args);
  const imageOf = async (owner: string) => {
    const { pool, image } = imageInPool(await lab.diskOf(owner));
    return `${pool}/${image}`;
  };
  const infoOf = async (owner: string) => JSON.parse(rbd('info', '--format', 'json', await imageOf(owner)));
  const parentOf = async (owner: string) => (await infoOf(owner)).parent;
  const headerOf = async (owner: string) => startOf(await lab.mediumOf(owner), LUKS1_HEADER_BYTES);
  const secretOf = async (owner: string) => {
    const secret = await lab.secretOf(owner);
    assert.ok(secret !== null, `${owner} has no secret`);
    return secret;
  };

  const moves = isWhole ? ['other', 'files', 'pool', 'clear', 'pool'] : ['files', 'pool'];
  for (const [i, type] of moves.entries()) {
    test(`under its running guest it moves to ${type} (${i + 1} of ${moves.length})`, async () => {
      const before = await move.facts();
      await move.act({ 'os-retype': { new_type: type, migration_policy: 'on-demand' } });
      const { status, reason } = await move.ended();
      assert.deepEqual([status, reason], ['completed', null]);
      const after = await move.facts();
      assert.equal(after.type, type);
      assert.ok(after.medium !== before.medium && after.secret !== before.secret);
      if (after.secret) assert.equal(await lab.opens(after.secret, await lab.fileOf(move.volume)), true);
      await move.goesOn();
      await move.noStrays();
    });
  }

  test('it is grown under its guest, which sees as much as was asked for; its key is changed meanwhile', async () => {
    const before = await secretOf(move.volume);
    await move.act({ 'os-extend': { new_size: 2 } });
    await lab.reach('volume', move.volume, 'in-use');
    const device = await move.writer.device();
    assert.equal(Number(await move.run(`blockdev --getsize64 ${device}`)), 2 * GIB);
    await move.act({ 'nightlatch:rekey': null });
    await lab.settled();
    assert.notEqual(await secretOf(move.volume), before);
    await move.goesOn();
    await move.noStrays();
  });

  test('copies share what they hold, each under a key of its own; the source stays as it is', async () => {
    const source = await lab.addVolume({ name: 'source', volume_type: 'pool' });
    await lab.fill(await lab.fileOf(source), await secretOf(source), BYTE);
    const header = await headerOf(source);
    const snapshot = await lab.addSnapshot(source);
    const backup = await lab.addBackup(source);
    const ofSnapshot = await lab.addVolume({ name: 'of snapshot', snapshot_id: snapshot });
    const clone = await lab.addVolume({ name: 'clone', source_volid: source, size: 2 });
    const restored = await lab.addVolume({ name: 'restored', volume_type: 'pool', backup_id: backup, size: 2 });
    for (const shared of [snapshot, ofSnapshot, clone]) assert.notEqual(await parentOf(shared), undefined);
    assert.equal(await parentOf(restored), undefined);
    const copies = [snapshot, ofSnapshot, clone, restored];
    for (const copy of copies) {
      const medium = await lab.fileOf(copy);
      assert.equal(await lab.holds(medium, await secretOf(copy), BYTE), true);
      assert.equal(await lab.opens(await secretOf(source), medium), false, 'the key of the source opens the copy');
    }
    assert.ok(header.equals(await headerOf(source)), 'the header of the source is another');
    // Whatever goes first, what others share stays until the last of them.
    await lab.delete('volume', ofSnapshot);
    await lab.delete('snapshot', snapshot);
    await lab.delete('volume', source);
    assert.equal(await lab.holds(await lab.fileOf(clone), await secretOf(clone), BYTE), true);
    await lab.delete('volume', clone);
    await lab.delete('volume', restored);
    await lab.delete('backup', backup);
    assert.deepEqual(trashOf(poolOf(null)), []);
    await move.noStrays();
  });

  whole(`a copy of a copy, more than ${MOST_BELOW} of them, has data of its own`, async () => {
    const chain = [await lab.addVolume({ name: 'first', volume_type: 'pool' })];
    await lab.fill(await lab.fileOf(chain[0] ?? ''), await secretOf(chain[0] ?? ''), BYTE);
    for (let i = 0; i <= MOST_BELOW; i++) {
      chain.push(await lab.addVolume({ name: `copy ${i}`, source_volid: chain.at(-1) ?? '' }));
    }
    const parents = await Promise.all(chain.map(parentOf));
    assert.deepEqual(
      parents.map((parent) => parent !== undefined),
      [false, ...Array.from({ length: MOST_BELOW }, () => true), false],
    );
    const last = chain.at(-1) ?? '';
    for (const volume of chain.slice(0, -1)) await lab.delete('volume', volume);
    assert.equal(await lab.holds(await lab.fileOf(last), await secretOf(last), BYTE), true);
    await lab.delete('volume', last);
    assert.deepEqual(trashOf(poolOf(null)), []);
  });

  whole('volumes of an image that are not encrypted share it; the image may be deleted before them', async () => {
    const image = await lab.servers.addBootImage();
    const volumes = await Promise.all(
      ['one', 'two'].map((name) => lab.addVolume({ name, volume_type: 'clear', imageRef: image, size: 2 })),
    );
    const encrypted = await lab.addVolume({ name: 'three', volume_type: 'pool', imageRef: image });
    assert.equal(await parentOf(encrypted), undefined, 'what the image holds in clear was shared');
    for (const volume of volumes) {
      assert.equal((await parentOf(volume)).image, `cached-${image}`);
      const bytes = await startOf(await lab.mediumOf(volume));
      assert.ok(bytes.subarray(0, 512).equals(bootSector()));
      assert.ok(bytes.subarray(512).every((byte) => byte === 0));
      assert.equal((await infoOf(volume)).size, 2 * GIB);
    }
    await lab.servers.cloud.expect('image', 'DELETE', `/v2/images/${image}`);
    for (const volume of [...volumes, encrypted]) await lab.delete('volume', volume);
  });

  whole('it is detached and attached again, and what was written is there', async () => {
    await move.writer.stop();
    await lab.detach(move.server, move.volume);
    assert.match(rbd('status', await imageOf(move.volume)), /Watchers: none/);
    await lab.attach(move.server, move.volume);
    await move.writer.expectRest();
  });

  whole('guests use the libvirt secret that an operator keeps, where one is named, and none without it', async () => {
    const volume = await lab.addVolume({ name: 'kept', volume_type: 'kept' });
    const path = `/v2.1/servers/${move.server}/os-volume_attachments`;
    const body = { volumeAttachment: { volumeId: volume } };
    await lab.servers.cloud.request('compute', 'POST', path, { body });
    await lab.settled();
    await lab.reach('volume', volume, 'available');
    const folder = lab.servers.service.directory;
    const usage = '<usage type="ceph"><name>operator</name></usage>';
    await writeFile(`${folder}/secret.xml`, `<secret><uuid>${SECRET_UUID}</uuid>${usage}</secret>`);
    await writeFile(`${folder}/secret`, cluster.ceph('auth', 'get-key', `client.${cluster.user}`).trim());
    lab.virsh('secret-define', `${folder}/secret.xml`);
    lab.virsh('secret-set-value', SECRET_UUID, '--file', `${folder}/secret`);
    await lab.attach(move.server, volume);
    await lab.detach(move.server, volume);
    lab.virsh('secret-undefine', SECRET_UUID);
    await lab.delete('volume', volume);
    await move.noStrays();
  });

  test('nightlatch doctor finds key, pools and QEMU; a user without a key is told', async () => {
    const { configFile } = lab.servers.service;
    const look = async (file: string) => {
      const { stdout } = await nightlatch('doctor', '--config', file, '-f', 'json');
      const found: { check: string; verdict: string; detail: string }[] = JSON.parse(stdout);
      return new Map(found.map(({ check, verdict, detail }) => [check, `${verdict}: ${detail}`]));
    };
    const found = await look(configFile);
    assert.match(found.get('pool volumes') ?? '', /^ok: [1-9]\d* images, room for \d+ GiB$/);
    assert.match(found.get(`key of client.${cluster.user}`) ?? '', /^ok: 28 bytes/);
    assert.match(found.get('QEMU and Ceph') ?? '', /^ok/);
    const other = `${configFile}.other`;
    const text = await readFile(configFile, 'utf8');
    await writeFile(other, text.replaceAll(`rbd_user = "${cluster.user}"`, 'rbd_user = "nobody"'));
    const lost = await look(other);
    assert.match(lost.get('key of client.nobody') ?? '', /^fail/);
    assert.match(lost.get('pool volumes') ?? '', /^fail/);
  });

  test('no block device was made for any of this', async () => {
    assert.deepEqual(await devices(), blockDevices);
    assert.ok(imagesIn(poolOf(null)).length > 0);
  });
});
