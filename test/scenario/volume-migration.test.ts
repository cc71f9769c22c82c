import assert from 'node:assert/strict';
import { access } from 'node:fs/promises';
import { after, before, describe, it } from 'node:test';
import { MIB } from '#core/sizes.ts';
import { CLOUD_NAME } from '#main/clouds-yaml.ts';
import { CloudShell, shellUserData } from '#test/support/cloud-shell.ts';
import { testGuestImage } from '#test/support/guest-image.ts';
import { GuestWriter } from '#test/support/guest-writer.ts';
import { nightlatch } from '#test/support/nightlatch-command.ts';
import { type OpenStackClient, openStackClient } from '#test/support/openstack-client.ts';
import { findStrays } from '#test/support/strays.ts';
import { startOf, VolumesAndServers } from '#test/support/volumes-and-servers.ts';
import { waitUntil } from '#test/support/wait.ts';

const BACKENDS = '[volume_backends.slow]\n[volume_backends.fast]\nvolume_driver = "qcow2"\n';

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
    lab = await VolumesAndServers.open({ imagesType: 'qcow2', shutdownTimeout: 5, more: BACKENDS });
    openstack = openStackClient(lab.servers.service.stateDirectory, CLOUD_NAME);
    await lab.addEncryptedType('secret', { volume_backend_name: 'slow' });
    await lab.must('POST', '/types', { volume_type: { name: 'clear', extra_specs: { volume_backend_name: 'fast' } } });
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
    assert.equal(await lab.opens((await lab.secretOf(volume)) as never, await lab.mediumOf(volume)), true);
    // The digest of the volume key, in LUKS's own header: bytes 112 to 131.
    const now = await startOf(await lab.mediumOf(volume));
    assert.equal(now.subarray(112, 132).equals(header.subarray(112, 132)), false, 'the volume key is the same');
    assert.deepEqual(await findStrays(lab.servers.service), []);
  });

  it('is throttled, shows how far it is, goes on when the service is killed, and is as it was when that is cancelled', async () => {
    const [secret, medium] = [await lab.secretOf(volume), await lab.mediumOf(volume)];
    await lab.must('POST', `/volumes/${volume}/action`, { 'nightlatch:rekey': { volume_key: true, bandwidth: 32 } });
    await waitUntil('a part is copied', async () => (await migration()).disk_processed_bytes > 100 * MIB);
    await lab.servers.service.end('SIGKILL');
    await lab.servers.service.launch();
    lab.servers.cloud = await lab.servers.service.client();
    assert.equal((await cli('rekey', 'data', '--bandwidth', '1')).code, 0);
    const { disk_processed_bytes: before } = await migration();
    await waitUntil('it goes on', async () => (await migration()).disk_processed_bytes > before);
    const { status, disk_total_bytes, disk_processed_bytes, bandwidth, kind } = await migration();
    assert.deepEqual([status, kind, bandwidth], ['running', 'rekey', 1]);
    assert.ok(before > 100 * MIB && disk_processed_bytes < disk_total_bytes, 'it was begun again');
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
    assert.equal(await lab.opens((await lab.secretOf(volume)) as never, await lab.mediumOf(volume)), true);
    await goesOn();
    assert.deepEqual(await findStrays(lab.servers.service), []);
  });

  it('a guest that is killed in the middle: it is moved all the same, and the guest has it when it starts again', async () => {
    await writer.stop();
    const secret = await lab.secretOf(volume);
    await lab.must('POST', `/volumes/${volume}/action`, { 'nightlatch:rekey': { volume_key: true, bandwidth: 8 } });
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
