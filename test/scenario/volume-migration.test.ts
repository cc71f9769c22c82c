import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { GIB, MIB } from '#core/sizes.ts';
import { CLOUD_NAME } from '#main/clouds-yaml.ts';
import { expectBooted } from '#test/support/boot-guest.ts';
import { startOf } from '#test/support/encrypted-medium.ts';
import { GuestWriter } from '#test/support/guest-writer.ts';
import { MoveLab } from '#test/support/move-lab.ts';
import { nightlatch } from '#test/support/nightlatch-command.ts';
import { type OpenStackClient, openStackClient } from '#test/support/openstack-client.ts';
import type { VolumesAndServers } from '#test/support/volumes-and-servers.ts';
import { waitUntil } from '#test/support/wait.ts';

const backends = { slow: 'raw', fast: 'qcow2' } as const;

/** In the LUKS1 header, wherever it lies, bytes 112 to 131: mk-digest. See its specification, 2.1. */
function volumeKeyDigest(medium: Buffer): Buffer {
  const header = medium.indexOf('LUKS\xba\xbe', 0, 'latin1');
  assert.ok(header >= 0, 'there is no LUKS header');
  return medium.subarray(header + 112, header + 132);
}

const BYTE = 0xa5;
const isWhole = process.env.NIGHTLATCH_TEST_DEPTH === 'all';

/** The data of a volume moves to another disk while its guest writes to it all the time. */
describe('a volume that a guest has', { timeout: 900_000 }, () => {
  let move: MoveLab;
  let lab: VolumesAndServers;
  let openstack: OpenStackClient;
  let server: string;
  let volume: string;
  let writer: GuestWriter;

  before(async () => {
    // Of a qcow2 file only what was written is mirrored.
    move = await MoveLab.open({ backends }, 'secret', async (lab) => {
      await lab.addEncryptedType('secret', { volume_backend_name: 'fast' });
      await lab.addEncryptedType('anywhere');
      await lab.must('POST', '/types', {
        volume_type: { name: 'clear', extra_specs: { volume_backend_name: 'slow' } },
      });
    });
    ({ lab, server, volume, writer } = move);
    openstack = openStackClient(lab.servers.service.stateDirectory, CLOUD_NAME);
  });
  after(() => move[Symbol.asyncDispose]());

  const migration = () => move.migration();
  const ended = () => move.ended();
  const goesOn = () => move.goesOn();
  const cli = (...args: string[]) => nightlatch('volume', ...args, '--config', lab.servers.service.configFile);
  const rest = async () => {
    const shown = await lab.show('volume', volume);
    return [shown.status, shown['os-vol-mig-status-attr:migstat'], shown.volume_type];
  };

  it('rekey --volume-key: it has another volume key; the old medium and what opened it are gone', async () => {
    const [secret, medium] = [await lab.secretOf(volume), await lab.mediumOf(volume)];
    const header = await startOf(medium);
    const { code, stderr } = await cli('rekey', 'data', '--volume-key');
    assert.equal(code, 0, stderr);
    assert.match(stderr, /\d+ % of volume .* is copied/);
    assert.deepEqual(await rest(), ['in-use', 'success', 'secret']);
    await goesOn();
    assert.notEqual(await lab.secretOf(volume), secret);
    assert.notEqual(await lab.mediumOf(volume), medium);
    const secrets = await lab.servers.db
      .selectFrom('secrets')
      .select('id')
      .where('id', '=', secret as never)
      .execute();
    assert.deepEqual(secrets, []);
    assert.equal(await lab.opens((await lab.secretOf(volume)) as never, await lab.fileOf(volume)), true);
    const now = await startOf(await lab.mediumOf(volume));
    assert.equal(volumeKeyDigest(now).equals(volumeKeyDigest(header)), false, 'the volume key is the same');
    await move.noStrays();
  });

  it('is throttled, shows how far it is, goes on when the service is killed, and is as it was when that is cancelled', async () => {
    const [secret, medium] = [await lab.secretOf(volume), await lab.mediumOf(volume)];
    await lab.must('POST', `/volumes/${volume}/action`, { 'nightlatch:rekey': { volume_key: true, bandwidth: 2 } });
    await waitUntil('a part is copied', async () => (await migration()).disk_processed_bytes > 2 * MIB);
    await lab.servers.service.end('SIGKILL');
    await lab.servers.service.launch();
    lab.servers.cloud = await lab.servers.service.client();
    assert.equal((await cli('rekey', 'data', '--bandwidth', '1')).code, 0);
    const { disk_processed_bytes: before } = await migration();
    await waitUntil('it goes on', async () => (await migration()).disk_processed_bytes > before);
    const { status, disk_total_bytes, disk_processed_bytes, bandwidth, kind } = await migration();
    assert.deepEqual([status, kind, bandwidth], ['running', 'rekey', 1]);
    assert.ok(before > 2 * MIB && disk_processed_bytes < disk_total_bytes, 'it was begun again');
    assert.deepEqual(await rest(), ['in-use', 'migrating', 'secret']);
    const path = `/v2.1/servers/${server}/os-volume_attachments/${volume}`;
    assert.equal((await lab.servers.cloud.request('compute', 'DELETE', path)).status, 400);
    for (const action of [
      { 'os-extend': { new_size: 2 } },
      { 'os-retype': { new_type: 'clear', migration_policy: 'on-demand' } },
      { 'nightlatch:rekey': null },
      { 'nightlatch:rekey': { volume_key: true } },
      { 'os-volume_upload_image': { image_name: 'x', force: true } },
    ])
      assert.equal((await lab.ask('POST', `/volumes/${volume}/action`, action)).status, 400, JSON.stringify(action));
    for (const [path, body] of [
      ['/snapshots', { snapshot: { volume_id: volume, force: true } }],
      ['/backups', { backup: { volume_id: volume, force: true } }],
      ['/volumes', { volume: { source_volid: volume, size: 1 } }],
    ] as const)
      assert.equal((await lab.ask('POST', path, body)).status, 400, path);
    assert.equal((await lab.ask('DELETE', `/volumes/${volume}`)).status, 400);
    const { code, stderr } = await cli('rekey', 'data', '--cancel');
    assert.equal(code, 0, stderr);
    assert.equal((await migration()).status, 'cancelled');
    assert.deepEqual(await rest(), ['in-use', null, 'secret']);
    assert.deepEqual([await lab.secretOf(volume), await lab.mediumOf(volume)], [secret, medium]);
    assert.match((await cli('migration', 'data', '--cancel')).stderr, /is not being moved/);
    await goesOn();
    await move.noStrays();
  });

  it('without a guest it shows how far it is, is throttled and made faster, and is as it was when that is cancelled', async () => {
    const other = await lab.addVolume({ name: 'detached', volume_type: 'secret' });
    const { secret } = await move.facts(other);
    assert.ok(secret);
    await lab.fill(await lab.fileOf(other), secret, BYTE, 48 * MIB);
    await move.rekey(2, other);
    await move.begun(other);
    const [{ disk_processed_bytes: first }, begunAt] = [await move.migration(other), Date.now()];
    await move.begun(other, first + 6 * MIB);
    const { disk_processed_bytes: then, ...shown } = await move.migration(other);
    const seconds = (Date.now() - begunAt) / 1000;
    // What is copied is told a piece later, of two seconds.
    assert.ok((then - first) / MIB <= 2 * (seconds + 2.5), `${(then - first) / MIB} MiB in ${seconds} s`);
    assert.deepEqual([shown.status, shown.disk_total_bytes, shown.bandwidth], ['running', GIB, 2]);
    const cancelled = await cli('rekey', other, '--cancel');
    assert.equal(cancelled.code, 0, cancelled.stderr);
    await lab.reach('volume', other, 'available');
    assert.equal((await move.facts(other)).secret, secret);
    await move.rekey(1, other);
    await move.begun(other);
    assert.equal((await cli('migration', other, '--bandwidth', '0')).code, 0);
    const { code, stderr } = await cli('migration', other);
    assert.equal(code, 0, stderr);
    assert.match(stderr, /\d+ % of volume .* is copied/);
    const moved = await lab.secretOf(other);
    assert.ok(moved !== null && moved !== secret);
    assert.equal(await lab.holds(await lab.fileOf(other), moved, BYTE), true);
    await move.noStrays();
    await lab.delete('volume', other);
  });

  if (!isWhole) return;

  it('retype: clear, in another backend, and encrypted again', async () => {
    await openstack.does('volume', 'set', '--type', 'clear', '--retype-policy', 'on-demand', 'data');
    await lab.reach('volume', volume, 'in-use');
    assert.deepEqual(await rest(), ['in-use', 'success', 'clear']);
    assert.equal(await lab.secretOf(volume), null);
    await goesOn();
    await move.noStrays();
    const retype = { 'os-retype': { new_type: 'secret', migration_policy: 'never' } };
    assert.equal((await lab.ask('POST', `/volumes/${volume}/action`, retype)).status, 400);
    retype['os-retype'].migration_policy = 'on-demand';
    await lab.must('POST', `/volumes/${volume}/action`, retype);
    await lab.reach('volume', volume, 'in-use');
    assert.deepEqual(await rest(), ['in-use', 'success', 'secret']);
    assert.equal(await lab.opens((await lab.secretOf(volume)) as never, await lab.fileOf(volume)), true);
    await goesOn();
    await move.noStrays();
  });

  it('migrate: to another backend, where its type lets it lie; a paused guest stays paused', async () => {
    const migrate = (host: string) => lab.ask('POST', `/volumes/${volume}/action`, { 'os-migrate_volume': { host } });
    const shownHost = async () => (await lab.show('volume', volume))['os-vol-host-attr:host'] as string;
    const from = await shownHost();
    const to = from.replace('@fast#fast', '@slow#slow');
    assert.equal((await migrate(from)).status, 400);
    assert.equal((await migrate('nowhere@slow#slow')).status, 400);
    assert.equal((await migrate(to)).status, 400, 'its type says where it lies');
    await lab.must('POST', `/volumes/${volume}/action`, { 'os-retype': { new_type: 'anywhere' } });
    await lab.reach('volume', volume, 'in-use');
    await lab.servers.cloud.act(server, { pause: null });
    await lab.servers.cloud.waitForStatus(server, 'PAUSED');
    await openstack.does('volume', 'migrate', '--host', to, 'data');
    await ended();
    assert.deepEqual([await shownHost(), ...(await rest())], [to, 'in-use', 'success', 'anywhere']);
    await lab.servers.cloud.waitForStatus(server, 'PAUSED');
    await lab.servers.cloud.act(server, { unpause: null });
    await lab.servers.cloud.waitForStatus(server, 'ACTIVE');
    await goesOn();
    await move.noStrays();
  });

  it('a guest that is suspended in the middle goes on with the other disk; with one of another kind it keeps its own', async () => {
    const secret = await lab.secretOf(volume);
    const slowly = { 'nightlatch:rekey': { volume_key: true, bandwidth: 1 } };
    await lab.must('POST', `/volumes/${volume}/action`, slowly);
    await waitUntil('something is copied', async () => (await migration()).disk_processed_bytes > 0);
    await lab.servers.cloud.act(server, { suspend: null });
    await move.hurry();
    await ended();
    await lab.servers.cloud.waitForStatus(server, 'SUSPENDED');
    assert.equal((await migration()).status, 'completed');
    assert.notEqual(await lab.secretOf(volume), secret);
    await move.noStrays();
    await lab.must('POST', `/volumes/${volume}/action`, {
      'os-retype': { new_type: 'clear', migration_policy: 'on-demand' },
    });
    await ended();
    assert.match((await migration()).reason, /Resume it first/);
    assert.deepEqual(await rest(), ['in-use', 'error', 'anywhere']);
    await lab.servers.cloud.act(server, { resume: null });
    await lab.servers.cloud.waitForStatus(server, 'ACTIVE');
    await goesOn();
    await move.noStrays();
  });

  it('is copied without a guest that has it; that can be cancelled, and its server starts only afterwards', async () => {
    const other = await lab.addVolume({ name: 'other', volume_type: 'anywhere' });
    const rekey = { 'nightlatch:rekey': { volume_key: true } };
    const [secret, host] = [await lab.secretOf(other), (await lab.show('volume', other))['os-vol-host-attr:host']];
    const back = host.endsWith('#fast') ? host.replaceAll('fast', 'slow') : host.replaceAll('slow', 'fast');
    const migrate = { 'os-migrate_volume': { host: back, lock_volume: true } };
    await lab.must('POST', `/volumes/${other}/action`, migrate);
    assert.equal((await lab.show('volume', other)).status, 'maintenance');
    assert.equal((await cli('migration', 'other', '--cancel')).code, 0);
    await lab.reach('volume', other, 'available');
    assert.equal(await lab.secretOf(other), secret);
    assert.equal((await lab.show('volume', other))['os-vol-host-attr:host'], host);
    await lab.must('POST', `/volumes/${other}/action`, rekey);
    assert.equal((await cli('migration', 'other')).code, 0);
    assert.notEqual(await lab.secretOf(other), secret);
    await move.noStrays();
    await lab.delete('volume', other);
  });

  it('a server that is deleted in the middle: the volume is moved all the same', async () => {
    const flavor = await lab.servers.addFlavor({}, { disk: 1, ephemeral: 0, swap: 0 });
    const doomed = await lab.servers.create(flavor, await lab.servers.addBootImage());
    const other = await lab.addVolume({ name: 'other', volume_type: 'anywhere' });
    await lab.attach(doomed, other);
    const secret = await lab.secretOf(other);
    await lab.must('POST', `/volumes/${other}/action`, { 'nightlatch:rekey': { volume_key: true, bandwidth: 8 } });
    const status = async () => (await lab.must('GET', `/volumes/${other}/migration`)).migration.status;
    await waitUntil('it runs', async () => (await status()) === 'running');
    await lab.servers.delete(doomed);
    await move.hurry(other);
    assert.equal((await cli('migration', 'other')).code, 0);
    await lab.reach('volume', other, 'available');
    assert.notEqual(await lab.secretOf(other), secret);
    await move.noStrays();
    await lab.delete('volume', other);
  });

  it('two volumes of one server at once, of which one is cancelled; then both', async () => {
    const other = await lab.addVolume({ name: 'second', volume_type: 'secret' });
    await lab.attach(server, other);
    const noise = new GuestWriter({ run: (command) => move.run(command) }, other);
    const device = await noise.device();
    await move.run(`dd if=/dev/urandom of=${device} bs=32k count=256 conv=fsync 2>/dev/null`);
    const sum = () => move.run(`echo 3 >/proc/sys/vm/drop_caches; head -c 8M ${device} | md5sum`);
    const [was, one, two] = [await sum(), await move.facts(), await move.facts(other)];
    await Promise.all([move.rekey(4), move.rekey(1, other)]);
    await Promise.all([move.begun(), move.begun(other)]);
    assert.equal((await cli('migration', other, '--cancel')).code, 0);
    assert.deepEqual(await move.facts(other), two);
    await move.hurry();
    assert.equal((await move.ended()).status, 'completed');
    const again = await move.facts();
    assert.notEqual(again.medium, one.medium);
    await Promise.all([move.rekey(), move.rekey(0, other)]);
    await Promise.all([move.ended(), move.ended(other)]);
    await move.expectMoved(again);
    await move.expectMoved(two, 'in-use', other);
    assert.equal(await sum(), was);
    await goesOn();
    await lab.detach(server, other);
    await lab.delete('volume', other);
    await move.noStrays();
  });

  it('one that the guest may only read stays so, and what is on it', async () => {
    const other = await lab.addVolume({ name: 'second', volume_type: 'secret' });
    const facts = await move.facts(other);
    await lab.fill(await lab.fileOf(other), facts.secret as never, BYTE);
    await move.act({ 'os-update_readonly_flag': { readonly: true } }, other);
    await lab.attach(server, other);
    const device = await new GuestWriter({ run: (command) => move.run(command) }, other).device();
    const isLocked = () => move.run(`cat /sys/block/${device.slice(5)}/ro`);
    const sum = () => move.run(`echo 3 >/proc/sys/vm/drop_caches; head -c 64k ${device} | md5sum`);
    assert.equal(await isLocked(), '1');
    const was = await sum();
    await move.rekey(0, other);
    await move.expectMoved(facts, 'in-use', other);
    assert.deepEqual([await isLocked(), await sum()], ['1', was]);
    await lab.detach(server, other);
    assert.equal(await lab.holds(await lab.fileOf(other), (await lab.secretOf(other)) as never, BYTE), true);
    await lab.delete('volume', other);
    await move.noStrays();
  });

  it('the one that a server boots from: rekeyed, retyped, migrated; it goes on, and boots from it', async () => {
    const flavor = await lab.servers.addFlavor({}, { disk: 0, ephemeral: 0, swap: 0 });
    const image = await lab.servers.addBootImage();
    const root = await lab.addVolume({ name: 'root', imageRef: image, volume_type: 'secret' });
    const block_device_mapping_v2 = [{ uuid: root, source_type: 'volume', destination_type: 'volume', boot_index: 0 }];
    const wanted = { name: 'booted', flavorRef: flavor, networks: 'none', block_device_mapping_v2 };
    const created = await lab.servers.cloud.expect('compute', 'POST', '/v2.1/servers', { body: { server: wanted } });
    const booted = created.server.id as string;
    await lab.servers.cloud.waitForStatus(booted, 'ACTIVE');
    await lab.reach('volume', root, 'in-use');
    let letter = await expectBooted(lab.servers.cloud, booted);
    const from = (await lab.show('volume', root))['os-vol-host-attr:host'] as string;
    for (const action of [
      { 'nightlatch:rekey': { volume_key: true } },
      { 'os-retype': { new_type: 'clear', migration_policy: 'on-demand' } },
      { 'os-retype': { new_type: 'anywhere', migration_policy: 'on-demand' } },
      { 'os-migrate_volume': { host: from } },
    ]) {
      const { medium } = await move.facts(root);
      await move.act(action, root);
      assert.equal((await move.ended(root)).status, 'completed', JSON.stringify(action));
      assert.notEqual((await move.facts(root)).medium, medium);
      const answered = await lab.servers.answer(booted);
      assert.equal(answered, letter, 'its guest did not go on');
      letter = String.fromCharCode(letter.charCodeAt(0) + 1);
      await move.noStrays();
    }
    await lab.servers.cloud.act(booted, { reboot: { type: 'HARD' } });
    await lab.servers.cloud.waitForStatus(booted, 'ACTIVE');
    await expectBooted(lab.servers.cloud, booted);
    await lab.servers.delete(booted);
    await lab.delete('volume', root);
    await move.noStrays();
  });

  it('a guest that is killed in the middle: it is moved all the same, and the guest has it when it starts again', async () => {
    await writer.stop();
    const secret = await lab.secretOf(volume);
    await lab.must('POST', `/volumes/${volume}/action`, { 'nightlatch:rekey': { volume_key: true, bandwidth: 1 } });
    await waitUntil('something is copied', async () => (await migration()).disk_processed_bytes > 0);
    await lab.servers.cloud.act(server, { 'os-stop': null });
    await move.hurry();
    await ended();
    await lab.reach('volume', volume, 'in-use');
    await lab.servers.cloud.waitForStatus(server, 'SHUTOFF');
    assert.equal((await migration()).status, 'completed');
    assert.notEqual(await lab.secretOf(volume), secret);
    await move.noStrays();
    await move.boot();
    await writer.expectRest();
  });
});
