import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { type DiskId, type HostName, newId } from '#core/ids.ts';
import { GIB } from '#core/sizes.ts';
import { insertDisks } from '#db/disks.ts';
import { saveHost } from '#db/hosts.ts';
import { addImage, type ComputeLab, openComputeLab } from '#test/support/compute-lab.ts';

let lab: ComputeLab;

before(async () => {
  lab = await openComputeLab();
  await saveHost(lab.db, {
    name: 'host-1' as HostName,
    traits: ['COMPUTE_EPHEMERAL_ENCRYPTION'],
    vcpus: 8,
    memory_mib: 16_384,
    disk_gib: 100,
    virt_type: 'qemu',
    storage: 'raw',
    default_encryption_format: 'luks',
    undecided_encryption_format: null,
    volume_backends: [],
    seen_at: new Date(),
  });
  const flavor = { name: 'small', ram: 512, vcpus: 2, disk: 3, id: '1' };
  await lab.call('POST', '/flavors', { as: 'admin', body: { flavor } });
  const imageRef = await addImage(lab.db, lab.projects.one);
  const { body } = await lab.call('POST', '/servers', { body: { server: { name: 'web', imageRef, flavorRef: '1' } } });
  await lab.operations.run(body.server.id);
  const disk = { id: newId<DiskId>(), owner_id: body.server.id, project_id: lab.projects.one, role: 'root' } as const;
  const size = { ordinal: 0, size_bytes: 3 * GIB, storage: 'raw', encrypted: false } as const;
  await insertDisks(lab.db, [{ ...disk, ...size, host: 'host-1' as HostName, state: 'formatted' }]);
});
after(() => lab[Symbol.asyncDispose]());

const admin = { as: 'admin' } as const;

describe('limits and quotas', () => {
  it('are none, beside what is used', async () => {
    const { absolute, rate } = (await lab.call('GET', '/limits')).body.limits;
    assert.deepEqual(rate, []);
    assert.deepEqual([absolute.maxTotalInstances, absolute.maxTotalCores, absolute.maxTotalRAMSize], [-1, -1, -1]);
    const { totalInstancesUsed, totalCoresUsed, totalRAMUsed } = absolute;
    assert.deepEqual([totalInstancesUsed, totalCoresUsed, totalRAMUsed], [1, 2, 512]);
    const stranger = (await lab.call('GET', '/limits', { as: 'stranger' })).body.limits.absolute;
    assert.equal(stranger.totalInstancesUsed, 0);
  });

  it('have the fields of their microversion', async () => {
    const fields = async (version: string) =>
      Object.keys((await lab.call('GET', '/limits', { version })).body.limits.absolute);
    assert.ok((await fields('2.35')).includes('maxSecurityGroups'));
    assert.ok(!(await fields('2.36')).includes('maxSecurityGroups'));
    assert.ok((await fields('2.56')).includes('maxPersonality'));
    assert.ok(!(await fields('2.57')).includes('maxPersonality'));
    const quotas = async (version: string) =>
      Object.keys((await lab.call('GET', `/os-quota-sets/${lab.projects.one}`, { version })).body.quota_set);
    assert.ok((await quotas('2.1')).includes('floating_ips'));
    assert.ok(!(await quotas('2.57')).includes('injected_files'));
  });

  it('of another project are an admin’s to see', async () => {
    for (const path of [`/os-quota-sets/${lab.projects.one}`, `/limits?tenant_id=${lab.projects.one}`]) {
      assert.equal((await lab.call('GET', path)).status, 200);
      assert.equal((await lab.call('GET', path, { as: 'stranger' })).status, 403);
      assert.equal((await lab.call('GET', path, admin)).status, 200);
    }
    const detail = await lab.call('GET', `/os-quota-sets/${lab.projects.one}/detail`);
    assert.deepEqual(detail.body.quota_set.instances, { limit: -1, in_use: 1, reserved: 0 });
    assert.equal((await lab.call('GET', '/os-quota-sets/x/defaults')).body.quota_set.instances, -1);
  });
});

describe('hosts', () => {
  it('are an admin’s to see', async () => {
    for (const path of ['/os-services', '/os-hypervisors', '/os-hypervisors/detail', '/os-availability-zone/detail']) {
      assert.equal((await lab.call('GET', path)).status, 403, path);
      assert.equal((await lab.call('GET', path, admin)).status, 200, path);
    }
    const zones = await lab.call('GET', '/os-availability-zone');
    assert.deepEqual(zones.body.availabilityZoneInfo, [
      { zoneName: 'nova', zoneState: { available: true }, hosts: null },
    ]);
  });

  it('are shown with what their servers take', async () => {
    const { body } = await lab.call('GET', '/os-hypervisors/detail', admin);
    const { id, vcpus, vcpus_used, memory_mb_used, local_gb_used, running_vms } = body.hypervisors[0];
    assert.deepEqual([id, vcpus, vcpus_used, memory_mb_used, local_gb_used, running_vms], [1, 8, 2, 512, 3, 1]);
    const { hypervisors } = (await lab.call('GET', '/os-hypervisors', { ...admin, version: '2.53' })).body;
    assert.match(hypervisors[0].id, /^[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-8[0-9a-f]{3}-[0-9a-f]{12}$/);
    const short = await lab.call('GET', `/os-hypervisors/${hypervisors[0].id}`, { ...admin, version: '2.88' });
    assert.deepEqual([short.body.hypervisor.uptime, 'vcpus' in short.body.hypervisor], [null, false]);
    assert.equal((await lab.call('GET', '/os-hypervisors/9', admin)).status, 404);
    const services = await lab.call('GET', '/os-services?binary=nova-compute', admin);
    assert.deepEqual(
      services.body.services.map(({ host, state }: { host: string; state: string }) => [host, state]),
      [['host-1', 'up']],
    );
    assert.deepEqual((await lab.call('GET', '/os-services?host=other', admin)).body.services, []);
  });
});

describe('what there is nothing of', () => {
  it('is an empty list, and no item', async () => {
    assert.deepEqual((await lab.call('GET', '/os-server-groups')).body, { server_groups: [] });
    assert.deepEqual((await lab.call('GET', '/extensions')).body, { extensions: [] });
    for (const path of ['/os-server-groups/x', '/extensions/os-consoles']) {
      assert.equal((await lab.call('GET', path)).status, 404, path);
      assert.equal((await lab.call('GET', path, { as: null })).status, 401, path);
    }
  });
});
