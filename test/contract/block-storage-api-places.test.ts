import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import type { BackendName, HostName } from '#core/ids.ts';
import type { VolumeBackend } from '#core/volume-backend.ts';
import { saveHost } from '#db/hosts.ts';
import { insertMessage } from '#db/messages.ts';
import { type BlockStorageLab, openBlockStorageLab } from '#test/support/block-storage-lab.ts';

let lab: BlockStorageLab;
const host = 'host-1' as HostName;
const backend = (
  name: string,
  storage: VolumeBackend['storage'],
  more: Partial<VolumeBackend> = {},
): VolumeBackend => ({
  ...{ name: name as BackendName, volumeBackendName: name, storage, formats: ['luks'], capacityGib: 100 },
  ...more,
});
async function addHost(name: HostName, volume_backends: VolumeBackend[], seen_at: Date): Promise<void> {
  await saveHost(lab.db, {
    ...{ name, traits: [], vcpus: 4, memory_mib: 1024, disk_gib: 100, virt_type: 'qemu', storage: 'raw' },
    ...{ default_encryption_format: 'luks', undecided_encryption_format: null, volume_backends, seen_at },
  });
}

before(async () => {
  lab = await openBlockStorageLab();
  await addHost(host, [backend('files', 'raw'), backend('fast', 'lvm', { volumeBackendName: 'gold' })], new Date());
  await addHost('host-2' as HostName, [backend('files', 'raw')], new Date(0));
});
after(() => lab[Symbol.asyncDispose]());

describe('the places for volumes', () => {
  it('are pools, of hosts that are up, in detail with what they can do and have room for', async () => {
    const { body } = await lab.admin('GET', '/scheduler-stats/get_pools');
    assert.deepEqual(body, { pools: [{ name: 'host-1@files#files' }, { name: 'host-1@fast#gold' }] });
    const detailed = await lab.admin('GET', '/scheduler-stats/get_pools?detail=True');
    const [files, gold] = detailed.body.pools;
    assert.equal(files.capabilities.total_capacity_gb, 100);
    assert.equal(files.capabilities.storage_protocol, 'file');
    assert.deepEqual([gold.name, gold.capabilities.volume_backend_name], ['host-1@fast#gold', 'gold']);
    assert.equal((await lab.admin('GET', '/scheduler-stats/get_pools?detail=perhaps')).status, 400);
    assert.equal((await lab.call('GET', '/scheduler-stats/get_pools')).status, 403);
  });

  it('are chosen by name and by volume type, in microversions that have that', async () => {
    const { name } = await lab.addType({ extra_specs: { 'capabilities:volume_backend_name': 'gold', 'x:y': 'z' } });
    const ask = async (query: string, version: string) => {
      const { body } = await lab.call('GET', `/scheduler-stats/get_pools?${query}`, { as: 'admin', version });
      return body.pools.length;
    };
    assert.equal(await ask('name=host-1@files%23files', '3.28'), 1);
    assert.equal(await ask('name=host-1@files%23files', '3.27'), 2);
    assert.equal(await ask(`volume_type=${name}`, '3.35'), 1);
    assert.equal(await ask(`volume_type=${name}`, '3.34'), 2);
    assert.equal(await ask('volume_type=none-such', '3.35'), 0);
  });

  it('say the same of themselves as backends', async () => {
    for (const name of ['host-1@fast', 'host-1@fast%23gold']) {
      const { status, body } = await lab.admin('GET', `/capabilities/${name}`);
      assert.equal(status, 200);
      assert.deepEqual(
        [body.vendor_name, body.volume_backend_name, body.storage_protocol, body.namespace],
        ['Nightlatch', 'gold', 'lvm', 'OS::Storage::Capabilities::host-1@fast'],
      );
    }
    const missing = await lab.admin('GET', '/capabilities/host-1@slow');
    assert.deepEqual([missing.status, missing.body.itemNotFound?.message], [404, "Can't find service: host-1@slow"]);
  });

  it('are services that are up or down', async () => {
    const list = async (query = '', version = '3.0') => {
      const { body } = await lab.call('GET', `/os-services${query}`, { as: 'admin', version });
      return body.services.map((one: { binary: string; host: string; state: string }) => [
        one.binary,
        one.host,
        one.state,
      ]);
    };
    assert.deepEqual(await list('?binary=cinder-volume'), [
      ['cinder-volume', 'host-1@files', 'up'],
      ['cinder-volume', 'host-1@fast', 'up'],
      ['cinder-volume', 'host-2@files', 'down'],
    ]);
    assert.equal((await list('?host=host-1')).length, 3);
    assert.deepEqual(await list('?host=host-1@fast'), [['cinder-volume', 'host-1@fast', 'up']]);
    const fields = async (version: string) => {
      const { body } = await lab.call('GET', '/os-services?binary=cinder-volume', { as: 'admin', version });
      return ['cluster', 'backend_state'].map((field) => Object.hasOwn(body.services[0], field));
    };
    assert.deepEqual(await fields('3.6'), [false, false]);
    assert.deepEqual(await fields('3.7'), [true, false]);
    assert.deepEqual(await fields('3.49'), [true, true]);
    assert.equal((await lab.call('GET', '/os-services')).status, 403);
  });

  it('are hosts, with what each project has there', async () => {
    for (const sizeGib of [1, 2]) {
      await lab.addVolume(lab.projects.one, { sizeGib, host, backend: 'files' as BackendName });
    }
    await lab.addVolume(lab.projects.two, { sizeGib: 4, host, backend: 'files' as BackendName });
    await lab.addVolume(lab.projects.two, { sizeGib: 8, host, backend: 'fast' as BackendName });
    const { body } = await lab.admin('GET', '/os-hosts/host-1@files');
    const told = body.host.map(({ resource }: { resource: Record<string, string> }) => {
      return [resource.project, resource.volume_count, resource.total_volume_gb, resource.snapshot_count];
    });
    assert.deepEqual(told[0], ['(total)', '3', '7', '0']);
    assert.deepEqual(
      new Set(told.slice(1).map(String)),
      new Set([`${lab.projects.one},2,3,0`, `${lab.projects.two},1,4,0`]),
    );
    assert.equal((await lab.admin('GET', '/os-hosts')).body.hosts.length, 5);
    assert.equal((await lab.admin('GET', '/os-hosts/nowhere')).status, 404);
  });

  it('lie in one availability zone', async () => {
    const { body } = await lab.call('GET', '/os-availability-zone', { as: 'reader' });
    assert.deepEqual(body, { availabilityZoneInfo: [{ zoneName: 'nova', zoneState: { available: true } }] });
  });
});

describe('what is served of Cinder’s extensions', () => {
  it('is listed and shown', async () => {
    const { body } = await lab.call('GET', '/extensions');
    assert.ok(body.extensions.some(({ name }: { name: string }) => name === 'Hosts'));
    const one = await lab.call('GET', '/extensions/os-quota-sets');
    assert.equal(one.body.extension.name, 'Quotas');
    assert.equal((await lab.call('GET', '/extensions/os-coffee')).status, 404);
  });
});

describe('messages', () => {
  const tell = (resource_uuid: string, text = 'no room') =>
    insertMessage(lab.db, {
      ...{ project_id: lab.projects.one, request_id: 'req-1', resource_type: 'VOLUME', resource_uuid },
      ...{ event: '001_003', text },
    });

  it('are there from 3.3 on, for the project they were sent to, until they are deleted', async () => {
    await tell('volume-1');
    const list = (as: 'member' | 'stranger', version = '3.3') => lab.call('GET', '/messages', { as, version });
    assert.equal((await list('member', '3.2')).status, 404);
    const [message] = (await list('member')).body.messages;
    assert.deepEqual(
      [message.event_id, message.user_message, message.message_level, message.resource_uuid],
      ['VOLUME_VOLUME_001_003', 'no room', 'ERROR', 'volume-1'],
    );
    assert.match(message.links[0].href, new RegExp(`/volume/v3/${lab.projects.one}/messages/${message.id}$`));
    assert.deepEqual((await list('stranger')).body, { messages: [] });
    const call = (method: 'GET' | 'DELETE', as: 'member' | 'reader' | 'stranger') =>
      lab.call(method, `/messages/${message.id}`, { as, version: '3.3' });
    assert.deepEqual((await call('GET', 'reader')).body.message, message);
    assert.equal((await call('GET', 'stranger')).status, 404);
    assert.equal((await call('DELETE', 'stranger')).status, 404);
    assert.equal((await call('DELETE', 'reader')).status, 403);
    assert.equal((await call('DELETE', 'member')).status, 204);
    assert.equal((await call('GET', 'member')).status, 404);
  });

  it('come in pages and by filter from 3.5 on', async () => {
    for (const name of ['a', 'b', 'c']) await tell(`volume-${name}`);
    const list = async (query: string, version = '3.5') => {
      const { status, body } = await lab.call('GET', `/messages?${query}`, { version });
      return status === 200 ? body.messages.map((one: { resource_uuid: string }) => one.resource_uuid) : status;
    };
    assert.deepEqual(await list('limit=2&sort=resource_uuid:asc'), ['volume-a', 'volume-b']);
    assert.deepEqual(await list('resource_uuid=volume-c'), ['volume-c']);
    assert.equal((await list('limit=2', '3.4')).length, 3);
    assert.equal(await list('colour=blue', '3.33'), 400);
    assert.equal((await list('colour=blue', '3.32')).length, 3);
  });

  it('are gone when their time is over', async () => {
    await tell('volume-old');
    await lab.db
      .updateTable('messages')
      .set({ expires_at: new Date(0) } as never)
      .execute();
    assert.deepEqual((await lab.call('GET', '/messages', { version: '3.3' })).body, { messages: [] });
    await tell('volume-new');
    assert.equal((await lab.db.selectFrom('messages').selectAll().execute()).length, 1);
  });
});
