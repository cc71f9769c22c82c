import assert from 'node:assert/strict';
import { access } from 'node:fs/promises';
import { after, before, describe, it } from 'node:test';
import { MIB } from '#core/sizes.ts';
import { CLOUD_NAME } from '#main/clouds-yaml.ts';
import { CloudShell, shellUserData } from '#test/support/cloud-shell.ts';
import { startOf } from '#test/support/encrypted-medium.ts';
import { testGuestImage } from '#test/support/guest-image.ts';
import { GuestWriter } from '#test/support/guest-writer.ts';
import { nightlatch } from '#test/support/nightlatch-command.ts';
import { type OpenStackClient, openStackClient } from '#test/support/openstack-client.ts';
import { findStrays } from '#test/support/strays.ts';
import { VolumesAndServers } from '#test/support/volumes-and-servers.ts';
import { waitUntil } from '#test/support/wait.ts';

const backends = { slow: 'raw', fast: 'qcow2' } as const;

/** In the LUKS1 header, wherever it lies, bytes 112 to 131: mk-digest. See its specification, 2.1. */
function volumeKeyDigest(medium: Buffer): Buffer {
  const header = medium.indexOf('LUKS\xba\xbe', 0, 'latin1');
  assert.ok(header >= 0, 'there is no LUKS header');
  return medium.subarray(header + 112, header + 132);
}

const isWhole = process.env.NIGHTLATCH_TEST_DEPTH === 'all';

/** The data of a volume moves to another disk while its guest writes to it all the time. */
describe('a volume that a guest has', { timeout: 900_000 }, () => {
  let lab: VolumesAndServers;
  let openstack: OpenStackClient;
  let server: string;
  let volume: string;
  let guest: CloudShell;
  let writer: GuestWriter;

  before(async () => {
    lab = await VolumesAndServers.open({ imagesType: 'qcow2', shutdownTimeout: 5, backends });
    openstack = openStackClient(lab.servers.service.stateDirectory, CLOUD_NAME);
    // Of a qcow2 file only what was written is mirrored.
    await lab.addEncryptedType('secret', { volume_backend_name: 'fast' });
    await lab.addEncryptedType('anywhere');
    await lab.must('POST', '/types', { volume_type: { name: 'clear', extra_specs: { volume_backend_name: 'slow' } } });
    const { path } = await testGuestImage();
    const image = await lab.servers.cloud.uploadImage('guest', path, 'raw');
    const flavor = await lab.servers.addFlavor({}, { ram: 128, ephemeral: 0, swap: 0 });
    server = await lab.servers.create(flavor, image, { user_data: shellUserData });
    volume = await lab.addVolume({ name: 'data', volume_type: 'secret' });
    await lab.attach(server, volume);
    guest = await CloudShell.open(() => lab.servers.cloud, server);
    writer = new GuestWriter({ run: (command) => guest.run(command) }, volume);
    await writer.start();
  });
  after(() => lab[Symbol.asyncDispose]());

  const migration = async () => (await lab.must('GET', `/volumes/${volume}/migration`)).migration;
  const ended = () =>
    waitUntil(
      'the migration has ended',
      async () => !/accepted|running|cancelling/.test((await migration()).status),
      300_000,
    );
  const cli = (...args: string[]) => nightlatch('volume', ...args, '--config', lab.servers.service.configFile);
  const rest = async () => {
    const shown = await lab.show('volume', volume);
    return [shown.status, shown['os-vol-mig-status-attr:migstat'], shown.volume_type];
  };
  const goesOn = async () => {
    const before = await writer.count();
    await waitUntil('the guest goes on writing', async () => (await writer.count()) > before + 3);
  };

  it('rekey --volume-key: it has another volume key; the old medium and what opened it are gone', async () => {
    const [secret, medium] = [await lab.secretOf(volume), await lab.mediumOf(volume)];
    const header = await startOf(medium);
    const { code, stderr } = await cli('rekey', 'data', '--volume-key');
    assert.equal(code, 0, stderr);
    assert.match(stderr, /\d+ % of volume .* is mirrored/);
    assert.deepEqual(await rest(), ['in-use', 'success', 'secret']);
    await goesOn();
    assert.notEqual(await lab.secretOf(volume), secret);
    assert.notEqual(await lab.mediumOf(volume), medium);
    await assert.rejects(access(medium), { code: 'ENOENT' });
    const secrets = await lab.servers.db
      .selectFrom('secrets')
      .select('id')
      .where('id', '=', secret as never)
      .execute();
    assert.deepEqual(secrets, []);
    assert.equal(await lab.opens((await lab.secretOf(volume)) as never, await lab.fileOf(volume)), true);
    const now = await startOf(await lab.mediumOf(volume));
    assert.equal(volumeKeyDigest(now).equals(volumeKeyDigest(header)), false, 'the volume key is the same');
    assert.deepEqual(await findStrays(lab.servers.service), []);
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
    const { code, stderr } = await cli('rekey', 'data', '--cancel');
    assert.equal(code, 0, stderr);
    assert.equal((await migration()).status, 'cancelled');
    assert.deepEqual(await rest(), ['in-use', null, 'secret']);
    assert.deepEqual([await lab.secretOf(volume), await lab.mediumOf(volume)], [secret, medium]);
    assert.match((await cli('migration', 'data', '--cancel')).stderr, /is not being moved/);
    await goesOn();
    assert.deepEqual(await findStrays(lab.servers.service), []);
  });

  if (!isWhole) return;

  it('retype: clear, in another backend, and encrypted again', async () => {
    await openstack.does('volume', 'set', '--type', 'clear', '--retype-policy', 'on-demand', 'data');
    await lab.reach('volume', volume, 'in-use');
    assert.deepEqual(await rest(), ['in-use', 'success', 'clear']);
    assert.equal(await lab.secretOf(volume), null);
    await goesOn();
    assert.deepEqual(await findStrays(lab.servers.service), []);
    const retype = { 'os-retype': { new_type: 'secret', migration_policy: 'never' } };
    assert.equal((await lab.ask('POST', `/volumes/${volume}/action`, retype)).status, 400);
    retype['os-retype'].migration_policy = 'on-demand';
    await lab.must('POST', `/volumes/${volume}/action`, retype);
    await lab.reach('volume', volume, 'in-use');
    assert.deepEqual(await rest(), ['in-use', 'success', 'secret']);
    assert.equal(await lab.opens((await lab.secretOf(volume)) as never, await lab.fileOf(volume)), true);
    await goesOn();
    assert.deepEqual(await findStrays(lab.servers.service), []);
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
    assert.deepEqual(await findStrays(lab.servers.service), []);
  });

  it('a guest that is suspended in the middle goes on with the other disk; with one of another kind it keeps its own', async () => {
    const secret = await lab.secretOf(volume);
    const slowly = { 'nightlatch:rekey': { volume_key: true, bandwidth: 1 } };
    await lab.must('POST', `/volumes/${volume}/action`, slowly);
    await waitUntil('something is copied', async () => (await migration()).disk_processed_bytes > 0);
    await lab.servers.cloud.act(server, { suspend: null });
    await ended();
    await lab.servers.cloud.waitForStatus(server, 'SUSPENDED');
    assert.equal((await migration()).status, 'completed');
    assert.notEqual(await lab.secretOf(volume), secret);
    assert.deepEqual(await findStrays(lab.servers.service), []);
    await lab.must('POST', `/volumes/${volume}/action`, {
      'os-retype': { new_type: 'secret', migration_policy: 'on-demand' },
    });
    await ended();
    assert.match((await migration()).reason, /Resume it first/);
    assert.deepEqual(await rest(), ['in-use', 'error', 'anywhere']);
    await lab.servers.cloud.act(server, { resume: null });
    await lab.servers.cloud.waitForStatus(server, 'ACTIVE');
    await goesOn();
    assert.deepEqual(await findStrays(lab.servers.service), []);
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
    assert.deepEqual(await findStrays(lab.servers.service), []);
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
    assert.equal((await cli('migration', 'other')).code, 0);
    await lab.reach('volume', other, 'available');
    assert.notEqual(await lab.secretOf(other), secret);
    assert.deepEqual(await findStrays(lab.servers.service), []);
    await lab.delete('volume', other);
  });

  it('a guest that is killed in the middle: it is moved all the same, and the guest has it when it starts again', async () => {
    await writer.stop();
    const secret = await lab.secretOf(volume);
    await lab.must('POST', `/volumes/${volume}/action`, { 'nightlatch:rekey': { volume_key: true, bandwidth: 1 } });
    await waitUntil('something is copied', async () => (await migration()).disk_processed_bytes > 0);
    await lab.servers.cloud.act(server, { 'os-stop': null });
    await ended();
    await lab.reach('volume', volume, 'in-use');
    await lab.servers.cloud.waitForStatus(server, 'SHUTOFF');
    assert.equal((await migration()).status, 'completed');
    assert.notEqual(await lab.secretOf(volume), secret);
    assert.deepEqual(await findStrays(lab.servers.service), []);
    await lab.servers.cloud.act(server, { 'os-start': null });
    guest = await CloudShell.open(() => lab.servers.cloud, server, 2);
    await writer.expectRest();
  });
});
