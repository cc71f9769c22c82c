import assert from 'node:assert/strict';
import { stat } from 'node:fs/promises';
import { after, before, describe, it } from 'node:test';
import { GIB, LUKS1_HEADER_BYTES } from '#core/sizes.ts';
import { CLOUD_NAME } from '#main/clouds-yaml.ts';
import { expectBooted } from '#test/support/boot-guest.ts';
import { nightlatch } from '#test/support/nightlatch-command.ts';
import { type OpenStackClient, openStackClient } from '#test/support/openstack-client.ts';
import { findStrays } from '#test/support/strays.ts';
import { VolumesAndServers } from '#test/support/volumes-and-servers.ts';

/** Volumes from their creation to their end, by the real client; every copy has a key of its own. */
describe('openstack volume', { timeout: 600_000 }, () => {
  let lab: VolumesAndServers;
  let openstack: OpenStackClient;
  let volume: string;
  let server: string;

  before(async () => {
    lab = await VolumesAndServers.open({ imagesType: 'qcow2', shutdownTimeout: 5 });
    openstack = openStackClient(lab.servers.service.stateDirectory, CLOUD_NAME);
    const flavor = await lab.servers.addFlavor({ 'hw:ephemeral_encryption': 'true' });
    server = await lab.servers.create(flavor, await lab.servers.addBootImage());
    await expectBooted(lab.servers.cloud, server);
  });
  after(() => lab[Symbol.asyncDispose]());

  const leases = async () => {
    const rows = lab.servers.db.selectFrom('leases').innerJoin('disks', 'disks.id', 'leases.disk_id');
    const open = await rows.select('disks.owner_id').where('closed_at', 'is', null).execute();
    return open.filter(({ owner_id }) => owner_id === volume).length;
  };

  it('create: a volume of an encrypted type is formatted at once, with all of its size for its user', async () => {
    await openstack.does(
      ...['volume', 'type', 'create', '--encryption-provider', 'luks', '--encryption-cipher', 'aes-xts-plain64'],
      ...['--encryption-key-size', '256', '--encryption-control-location', 'front-end', 'secret'],
    );
    const made = (await openstack.json('volume', 'create', '--size', '1', '--type', 'secret', 'data')) as {
      id: string;
    };
    volume = made.id;
    await lab.reach('volume', volume, 'available');
    const shown = (await openstack.json('volume', 'show', 'data')) as Record<string, unknown>;
    assert.deepEqual([shown.status, shown.encrypted, shown.size, shown.type], ['available', true, 1, 'secret']);
    const path = await lab.mediumOf(volume);
    assert.equal((await stat(path)).size, GIB + LUKS1_HEADER_BYTES);
    assert.equal(await lab.opens((await lab.secretOf(volume)) as never, path), true);
    assert.deepEqual(await findStrays(lab.servers.service), []);
  });

  it('server add volume: it is in-use, under a lease, and locked when the server stops', async () => {
    await openstack.does('server', 'add', 'volume', 'web', 'data');
    await lab.reach('volume', volume, 'in-use');
    assert.equal(await leases(), 1);
    assert.deepEqual(await findStrays(lab.servers.service), []);
    await openstack.does('server', 'stop', 'web');
    await lab.servers.cloud.waitForStatus(server, 'SHUTOFF');
    assert.equal(await leases(), 0);
    assert.equal((await lab.show('volume', volume)).status, 'in-use');
    assert.deepEqual(await findStrays(lab.servers.service), []);
    await openstack.does('server', 'start', 'web');
    await lab.servers.cloud.waitForStatus(server, 'ACTIVE');
    await expectBooted(lab.servers.cloud, server);
    assert.equal(await leases(), 1);
  });

  it('volume attachment: shows what the server has, and does not take it from it', async () => {
    const version = ['--os-volume-api-version', '3.44'];
    const [listed] = (await openstack.json(...version, 'volume', 'attachment', 'list')) as Record<string, string>[];
    assert.deepEqual([listed?.['Volume ID'], listed?.['Server ID'], listed?.Status], [volume, server, 'attached']);
    const id = listed?.ID ?? '';
    assert.equal((await lab.show('volume', volume)).attachments[0].attachment_id, id);
    const shown = (await openstack.json(...version, 'volume', 'attachment', 'show', id)) as Record<string, unknown>;
    assert.equal(shown['Attach Mode'], 'rw');
    const refusal = await openstack.fails(...version, 'volume', 'attachment', 'delete', id);
    assert.match(refusal, /using the Compute API/);
    assert.equal((await lab.show('volume', volume)).status, 'in-use');
  });

  it('volume attachment create: reserves a volume for a server, which alone can have it then', async () => {
    const version = ['--os-volume-api-version', '3.44'];
    const other = await lab.addVolume({ name: 'kept' });
    await openstack.does(...version, 'volume', 'attachment', 'create', 'kept', 'web');
    assert.equal((await lab.show('volume', other)).status, 'reserved');
    const [made] = (await lab.must('GET', `/attachments?volume_id=${other}`)).attachments;
    await openstack.does(...version, 'volume', 'attachment', 'set', '--host', 'here', made.id);
    await openstack.does(...version, 'volume', 'attachment', 'complete', made.id);
    assert.equal((await lab.show('volume', other)).status, 'in-use');
    await openstack.does(...version, 'volume', 'attachment', 'delete', made.id);
    await lab.reach('volume', other, 'available');
    await lab.delete('volume', other);
  });

  it('is refused to a second server, and cannot be deleted, while it is in use', async () => {
    assert.match(await openstack.fails('volume', 'delete', 'data'), /status must be available/);
    const body = { volumeAttachment: { volumeId: volume } };
    const path = `/v2.1/servers/${server}/os-volume_attachments`;
    const { status } = await lab.servers.cloud.request('compute', 'POST', path, { body });
    assert.equal(status, 400);
  });

  it('set --size: the guest that has it keeps it, larger', async () => {
    await openstack.does('--os-volume-api-version', '3.42', 'volume', 'set', '--size', '2', 'data');
    await lab.reach('volume', volume, 'in-use');
    assert.equal((await lab.show('volume', volume)).size, 2);
    assert.equal((await stat(await lab.mediumOf(volume))).size, 2 * GIB + LUKS1_HEADER_BYTES);
    assert.deepEqual(await findStrays(lab.servers.service), []);
  });

  it('server event list: what was done to the server, and how it went', async () => {
    const listed = (await openstack.json('server', 'event', 'list', 'web')) as {
      Action: string;
      'Request ID': string;
    }[];
    assert.deepEqual(
      listed.map(({ Action }) => Action),
      ['extend_volume', 'start', 'stop', 'attach_volume', 'create'],
    );
    const shown = (await openstack.json('server', 'event', 'show', 'web', listed[0]?.['Request ID'] ?? '')) as {
      events: { event: string; result: string; finish_time: string | null }[];
    };
    assert.deepEqual(
      shown.events.map(({ event, result }) => [event, result]),
      [['compute_extend_volume', 'Success']],
    );
    assert.ok(shown.events[0]?.finish_time);
  });

  it('rekey: while the guest has it, only the new key opens it afterwards', async () => {
    const old = await lab.secretOf(volume);
    const { code, stderr } = await nightlatch('volume', 'rekey', 'data', '--config', lab.servers.service.configFile);
    assert.equal(code, 0, stderr);
    assert.notEqual(await lab.secretOf(volume), old);
    await lab.reach('volume', volume, 'in-use');
    assert.deepEqual(await findStrays(lab.servers.service), []);
    assert.equal(await lab.opens((await lab.secretOf(volume)) as never, await lab.mediumOf(volume)), true);
  });

  // This guest's system hears of nothing that is unplugged; one that does: test/contract/host-volumes.test.ts.
  it('server remove volume: of a stopped server, it is available', async () => {
    await lab.servers.cloud.act(server, { 'os-stop': null });
    await lab.servers.cloud.waitForStatus(server, 'SHUTOFF');
    await openstack.does('server', 'remove', 'volume', 'web', 'data');
    await lab.reach('volume', volume, 'available');
    assert.equal(await leases(), 0);
    assert.deepEqual(await findStrays(lab.servers.service), []);
  });

  it('snapshot and clone: each has its own key, which alone opens it', async () => {
    const snapshot = await lab.addSnapshot(volume, { name: 'then' });
    const clone = await lab.addVolume({ name: 'clone', source_volid: volume, size: 3 });
    const fromSnapshot = await lab.addVolume({ name: 'from-then', snapshot_id: snapshot, size: 2 });
    const all = [volume, snapshot, clone, fromSnapshot];
    for (const owner of all) {
      const path = await lab.mediumOf(owner);
      for (const other of all) {
        const secret = await lab.secretOf(other);
        assert.equal(await lab.opens(secret as never, path), owner === other, `${other}'s key on ${owner}`);
      }
    }
    assert.equal((await stat(await lab.mediumOf(clone))).size, 3 * GIB + LUKS1_HEADER_BYTES);
    assert.deepEqual(await findStrays(lab.servers.service), []);
    assert.match(await openstack.fails('volume', 'delete', 'data'), /dependent snapshots/);
    await openstack.does('volume', 'delete', 'clone', 'from-then');
    await lab.reach('volume', clone, 'gone');
    await lab.reach('volume', fromSnapshot, 'gone');
    await openstack.does('volume', 'snapshot', 'delete', 'then');
    await lab.reach('snapshot', snapshot, 'gone');
    assert.deepEqual(await findStrays(lab.servers.service), []);
  });

  it('set --type: to a clear one and back, on demand; all of its size stays, and the key is another', async () => {
    const other = await lab.addVolume({ name: 'other', volume_type: 'secret' });
    const old = await lab.secretOf(other);
    assert.match(await openstack.fails('volume', 'set', '--type', '__DEFAULT__', 'other'), /on-demand/);
    await openstack.does('volume', 'set', '--type', '__DEFAULT__', '--retype-policy', 'on-demand', 'other');
    await lab.reach('volume', other, 'available');
    const clear = await lab.show('volume', other);
    assert.deepEqual([clear.encrypted, clear.volume_type, await lab.secretOf(other)], [false, '__DEFAULT__', null]);
    assert.equal((await stat(await lab.mediumOf(other))).size, GIB);
    await lab.must('POST', `/volumes/${other}/action`, {
      'os-retype': { new_type: 'secret', migration_policy: 'on-demand' },
    });
    await lab.reach('volume', other, 'available');
    assert.equal((await stat(await lab.mediumOf(other))).size, GIB + LUKS1_HEADER_BYTES);
    const secret = await lab.secretOf(other);
    assert.notEqual(secret, old);
    assert.equal(await lab.opens(secret as never, await lab.mediumOf(other)), true);
    assert.deepEqual(await findStrays(lab.servers.service), []);
    await lab.delete('volume', other);
  });

  it('transfer: who accepts it gets it under a key of its own project; the giver’s opens nothing', async () => {
    const old = await lab.secretOf(volume);
    const { transfer } = await lab.must('POST', '/volume-transfers', { transfer: { volume_id: volume } });
    assert.equal((await lab.show('volume', volume)).status, 'awaiting-transfer');
    const wrong = await lab.ask('POST', `/volume-transfers/${transfer.id}/accept`, { accept: { auth_key: 'wrong' } });
    assert.equal(wrong.status, 400);
    await lab.must('POST', `/volume-transfers/${transfer.id}/accept`, { accept: { auth_key: transfer.auth_key } });
    await lab.reach('volume', volume, 'available');
    const secret = await lab.secretOf(volume);
    assert.notEqual(secret, old);
    assert.equal(await lab.opens(secret as never, await lab.mediumOf(volume)), true);
    assert.deepEqual(await findStrays(lab.servers.service), []);
  });

  it('delete: header, medium and secret are gone', async () => {
    const secrets = await lab.countSecrets();
    const path = await lab.mediumOf(volume);
    await openstack.does('volume', 'delete', 'data');
    await lab.reach('volume', volume, 'gone');
    assert.equal(await lab.countSecrets(), secrets - 1);
    await assert.rejects(stat(path), { code: 'ENOENT' });
    assert.deepEqual(await findStrays(lab.servers.service), []);
  });
});
