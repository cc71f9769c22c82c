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
});
