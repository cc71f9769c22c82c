import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import type { JsonObject } from '#cli/cloud/client.ts';
import { CLOUD_NAME } from '#main/clouds-yaml.ts';
import { expectBooted } from '#test/support/boot-guest.ts';
import { type OpenStackClient, openStackClient } from '#test/support/openstack-client.ts';
import { findStrays } from '#test/support/strays.ts';
import { VolumesAndServers } from '#test/support/volumes-and-servers.ts';

type Shown = { readonly id: string; readonly [name: string]: unknown };

/** Servers that boot from volumes, by the real client. */
describe('openstack server create from volumes', { timeout: 900_000 }, () => {
  let lab: VolumesAndServers;
  let openstack: OpenStackClient;
  let flavor: string;
  let image: string;

  before(async () => {
    lab = await VolumesAndServers.open({ imagesType: 'raw', shutdownTimeout: 2 });
    openstack = openStackClient(lab.servers.service.stateDirectory, CLOUD_NAME);
    flavor = await lab.servers.addFlavor({});
    image = await lab.servers.addBootImage();
    await lab.addEncryptedType('secret');
  });
  after(() => lab[Symbol.asyncDispose]());

  const boot = async (name: string, ...how: string[]): Promise<string> => {
    const common = ['--flavor', flavor, '--network', 'none', name];
    const made = (await openstack.json('server', 'create', ...how, ...common)) as Shown;
    await lab.servers.cloud.waitForStatus(made.id, 'ACTIVE');
    await expectBooted(lab.servers.cloud, made.id);
    return made.id;
  };
  const show = async (id: string): Promise<JsonObject> =>
    (await lab.servers.cloud.expect('compute', 'GET', `/v2.1/servers/${id}`)).server;
  const volumesOf = async (id: string): Promise<string[]> =>
    (await show(id))['os-extended-volumes:volumes_attached'].map(({ id }: { id: string }) => id);
  const remove = async (name: string): Promise<void> => {
    await openstack.does('server', 'delete', '--wait', name);
    assert.deepEqual(await findStrays(lab.servers.service), []);
  };

  it('--volume: it boots from an encrypted volume, has no image and no disk of that name, and leaves the volume', async () => {
    const volume = await lab.addVolume({ name: 'root', imageRef: image, volume_type: 'secret' });
    const server = await boot('one', '--volume', 'root');
    const shown = await show(server);
    assert.equal(shown.image, '');
    assert.deepEqual(await volumesOf(server), [volume]);
    const { status, attachments } = await lab.show('volume', volume);
    assert.equal(status, 'in-use');
    assert.deepEqual([attachments[0].server_id, attachments[0].device], [server, '/dev/vda']);
    const own = await lab.servers.disksOf(server);
    assert.deepEqual(
      own.map(({ role, format }) => [role, format]),
      [
        ['ephemeral', 'luks'],
        ['swap', 'luks'],
      ],
    );
    assert.deepEqual(await findStrays(lab.servers.service), []);
    const detach = await openstack.fails('server', 'remove', 'volume', 'one', 'root');
    assert.match(detach, /Cannot detach a root device volume/);
    await remove('one');
    await lab.reach('volume', volume, 'available');
    await lab.delete('volume', volume);
  });

  it('--boot-from-volume and --block-device: volumes are made for it, and go with it where that was wished', async () => {
    const server = await boot(
      'two',
      ...['--image', image, '--boot-from-volume', '1', '--block-device'],
      'source_type=blank,destination_type=volume,volume_size=1,volume_type=secret,delete_on_termination=true',
    );
    const [root = '', data = ''] = await volumesOf(server);
    const devices = async (id: string) => (await lab.show('volume', id)).attachments[0].device;
    // Ephemeral and swap disk of its flavor are between them.
    assert.deepEqual([await devices(root), await devices(data)], ['/dev/vda', '/dev/vdd']);
    assert.equal((await lab.show('volume', data)).encrypted, true);
    await remove('two');
    await lab.reach('volume', root, 'available');
    await lab.reach('volume', data, 'gone');
    const snapshot = await lab.addSnapshot(root, { name: 'then' });
    const third = await boot('three', '--snapshot', snapshot);
    const [copy = ''] = await volumesOf(third);
    assert.equal((await lab.show('volume', copy)).snapshot_id, snapshot);
    await openstack.does(
      ...['--os-compute-api-version', '2.85', 'server', 'volume', 'update'],
      ...['--delete-on-termination', 'three', copy],
    );
    const kept = await lab.addSnapshot(copy, { force: true });
    await remove('three');
    // A volume with snapshots is not deleted.
    await lab.reach('volume', copy, 'available');
    await lab.delete('snapshot', kept);
    for (const [kind, id] of [
      ['volume', copy],
      ['snapshot', snapshot],
      ['volume', root],
    ] as const)
      await lab.delete(kind, id);
    assert.deepEqual(await findStrays(lab.servers.service), []);
  });

  it('whatever is done to it, its volumes are its own, and nothing of them lies in clear', async () => {
    const tiny = await lab.servers.addFlavor({}, { ephemeral: 0, swap: 0 });
    const larger = await lab.servers.addFlavor({}, { ephemeral: 1, swap: 0, ram: 80 });
    const volume = await lab.addVolume({ imageRef: image, volume_type: 'secret' });
    const data = await lab.addVolume({});
    const made = (await openstack.json(
      'server',
      'create',
      '--volume',
      volume,
      '--flavor',
      tiny,
      '--network',
      'none',
      'many',
    )) as Shown;
    const { cloud } = lab.servers;
    const reach = async (status: string) => {
      await cloud.waitForStatus(made.id, status);
      if (status === 'ACTIVE' || status === 'VERIFY_RESIZE') await expectBooted(cloud, made.id);
      assert.equal((await lab.show('volume', volume)).status, 'in-use');
      assert.deepEqual(await findStrays(lab.servers.service), []);
    };
    const does = async (action: string, status: string, ...more: string[]) => {
      await openstack.does('server', action, ...more, 'many');
      await reach(status);
    };
    await reach('ACTIVE');
    assert.deepEqual(await lab.servers.disksOf(made.id), []);
    await lab.attach(made.id, data);
    await does('suspend', 'SUSPENDED');
    const [memory] = await lab.servers.disksOf(made.id);
    assert.deepEqual([memory?.role, memory?.format], ['memory', 'luks']);
    await does('resume', 'ACTIVE');
    await does('stop', 'SHUTOFF');
    await does('start', 'ACTIVE');
    await does('reboot', 'ACTIVE', '--hard');
    await does('resize', 'VERIFY_RESIZE', '--flavor', larger);
    // Made beside an encrypted volume, and named past the one that has vdb.
    assert.deepEqual(
      (await lab.servers.disksOf(made.id)).map(({ role, format }) => [role, format]),
      [['ephemeral', 'luks']],
    );
    assert.equal((await lab.show('volume', data)).attachments[0].device, '/dev/vdb');
    await openstack.does('server', 'resize', 'revert', 'many');
    await reach('ACTIVE');
    assert.deepEqual(await lab.servers.disksOf(made.id), []);
    await does('resize', 'VERIFY_RESIZE', '--flavor', larger);
    await openstack.does('server', 'resize', 'confirm', 'many');
    await reach('ACTIVE');
    assert.match(await openstack.fails('server', 'rescue', 'many'), /Cannot rescue a volume-backed instance/);
    assert.match(await openstack.fails('server', 'rebuild', '--image', image, 'many'), /volume-backed server/);
    await does('shelve', 'SHELVED_OFFLOADED');
    await does('unshelve', 'ACTIVE');
    await remove('many');
    for (const id of [volume, data]) {
      await lab.reach('volume', id, 'available');
      await lab.delete('volume', id);
    }
  });

  it('an image of it names snapshots of its volumes, and a server made from that has volumes made from them', async () => {
    const volume = await lab.addVolume({ imageRef: image, volume_type: 'secret' });
    const server = await boot('six', '--volume', volume);
    await openstack.does('server', 'image', 'create', '--name', 'of-six', 'six');
    const [made] = (await lab.servers.cloud.expect('image', 'GET', '/v2/images?name=of-six')).images;
    assert.deepEqual([made.status, made.size], ['active', 0]);
    const [{ snapshot_id: snapshot }] = JSON.parse(made.block_device_mapping);
    await lab.reach('snapshot', snapshot, 'available');
    assert.equal((await show(server)).status, 'ACTIVE');
    assert.deepEqual(await findStrays(lab.servers.service), []);
    const second = await boot('seven', '--image', 'of-six');
    const [copy = ''] = await volumesOf(second);
    const { snapshot_id, encrypted } = await lab.show('volume', copy);
    assert.deepEqual([snapshot_id, encrypted], [snapshot, true]);
    assert.equal((await show(second)).image, '');
    await remove('seven');
    await remove('six');
    await lab.reach('volume', copy, 'available');
    await lab.delete('volume', copy);
    await lab.delete('snapshot', snapshot);
    await lab.delete('volume', volume);
    await openstack.does('image', 'delete', 'of-six');
    assert.deepEqual(await findStrays(lab.servers.service), []);
  });

  it('one whose volume cannot be made fails, says why, and leaves no volume that was to go with it', async () => {
    const secrets = await lab.countSecrets();
    const extra_specs = { volume_backend_name: 'nowhere' };
    await lab.must('POST', '/types', { volume_type: { name: 'nowhere', extra_specs } });
    const device = { boot_index: 0, source_type: 'image', destination_type: 'volume', uuid: image, volume_size: 1 };
    const blank = {
      source_type: 'blank',
      destination_type: 'volume',
      boot_index: -1,
      volume_size: 1,
      volume_type: 'nowhere',
    };
    const devices = [{ ...device, volume_type: 'secret', delete_on_termination: true }, blank];
    const server = { name: 'five', flavorRef: flavor, networks: 'none', block_device_mapping_v2: devices };
    const headers = { 'openstack-api-version': 'compute 2.67' };
    const { cloud } = lab.servers;
    const { id } = (await cloud.expect('compute', 'POST', '/v2.1/servers', { body: { server }, headers })).server;
    await assert.rejects(cloud.waitForStatus(id, 'ACTIVE'));
    const { fault, status } = await show(id);
    assert.equal(status, 'ERROR');
    assert.match(
      fault.message,
      /^Block Device Mapping is Invalid: Volume .* its status is error\. No valid backend was found\./,
    );
    await lab.servers.delete(id);
    const { volumes } = await lab.must('GET', '/volumes/detail');
    for (const each of volumes.filter((one: JsonObject) => one.status === 'deleting'))
      await lab.reach('volume', each.id, 'gone');
    const left = (await lab.must('GET', '/volumes/detail')).volumes;
    assert.deepEqual(
      left.map((one: JsonObject) => [one.status, one.volume_type]),
      [['error', 'nowhere']],
    );
    await lab.delete('volume', left[0].id);
    assert.equal(await lab.countSecrets(), secrets);
    assert.deepEqual(await findStrays(lab.servers.service), []);
  });
});
