import assert from 'node:assert/strict';
import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import type { BackendName, HostName } from '#core/ids.ts';
import { saveHost } from '#db/hosts.ts';
import { insertMessage } from '#db/messages.ts';
import { CLOUD_NAME, writeCloudsYaml } from '#main/clouds-yaml.ts';
import { type BlockStorageLab, openBlockStorageLab } from '#test/support/block-storage-lab.ts';
import { PASSWORD } from '#test/support/compute-lab.ts';
import { type OpenStackClient, openStackClient } from '#test/support/openstack-client.ts';

/* What an operator does before there is a volume, by the commands that the documentation of OpenStack names. */

let lab: BlockStorageLab;
let folder: string;
let admin: OpenStackClient;
let member: OpenStackClient;

before(async () => {
  folder = await mkdtemp('/var/tmp/nightlatch-client-');
  lab = await openBlockStorageLab();
  await lab.app.listen({ port: 0, host: '127.0.0.1' });
  await saveHost(lab.db, {
    ...{ name: 'host-1' as HostName, traits: [], vcpus: 4, memory_mib: 1024, disk_gib: 100, virt_type: 'qemu' },
    ...{ storage: 'raw', default_encryption_format: 'luks', undecided_encryption_format: null },
    // It stays up however long the client takes.
    seen_at: new Date(Date.now() + 3_600_000),
    volume_backends: [
      {
        ...{ name: 'files' as BackendName, volumeBackendName: 'files', storage: 'raw' },
        ...{ formats: ['luks'], capacityGib: 50 },
      },
    ],
  });
  admin = await clientFor('root', 'operators');
  member = await clientFor('member', 'one');
});
after(async () => {
  await lab[Symbol.asyncDispose]();
  await rm(folder, { recursive: true, force: true });
});

async function clientFor(userName: string, projectName: string): Promise<OpenStackClient> {
  const { port } = lab.app.server.address() as AddressInfo;
  const own = join(folder, userName);
  await mkdir(own);
  const login = { userName, password: PASSWORD, projectName, domainId: 'default' };
  await writeCloudsYaml(join(own, 'clouds.yaml'), { ...login, authUrl: `http://127.0.0.1:${port}/identity` });
  return openStackClient(own, CLOUD_NAME);
}

type Row = Readonly<Record<string, unknown>>;
const show = async (client: OpenStackClient, ...args: string[]) => (await client.json(...args)) as Row;
const list = async (client: OpenStackClient, ...args: string[]) => (await client.json(...args)) as Row[];

describe('the openstack client', () => {
  it('makes a volume type that encrypts, shows it, changes it and deletes it', async () => {
    const created = await show(
      admin,
      ...['volume', 'type', 'create', 'luks', '--description', 'encrypted', '--property', 'volume_backend_name=files'],
      ...['--encryption-provider', 'luks', '--encryption-cipher', 'aes-xts-plain64'],
      ...['--encryption-key-size', '256', '--encryption-control-location', 'front-end'],
    );
    assert.deepEqual([created.name, created.is_public], ['luks', true]);
    assert.match(JSON.stringify(created.encryption), /aes-xts-plain64/);
    const shown = await show(admin, 'volume', 'type', 'show', 'luks', '--encryption-type');
    const told = JSON.stringify(shown.encryption);
    for (const word of ['luks', '256', 'front-end']) assert.ok(told.includes(word), `${word} in ${told}`);
    assert.deepEqual(shown.properties, { volume_backend_name: 'files' });
    const set = ['--property', 'nightlatch:clone_key=volume-key', '--encryption-provider', 'luks2'];
    await admin.does('volume', 'type', 'set', 'luks', '--name', 'luks2', ...set);
    const changed = await show(admin, 'volume', 'type', 'show', 'luks2', '--encryption-type');
    assert.match(JSON.stringify(changed.encryption), /luks2/);
    assert.deepEqual(changed.properties, { volume_backend_name: 'files', 'nightlatch:clone_key': 'volume-key' });
    await admin.does('volume', 'type', 'unset', 'luks2', '--property', 'volume_backend_name', '--encryption-type');
    const bare = await show(admin, 'volume', 'type', 'show', 'luks2', '--encryption-type');
    assert.deepEqual(bare.properties, { 'nightlatch:clone_key': 'volume-key' });
    assert.doesNotMatch(JSON.stringify(bare.encryption ?? ''), /luks/);
    await admin.does('volume', 'type', 'delete', 'luks2');
    assert.match(await admin.fails('volume', 'type', 'show', 'luks2'), /No volumetype|No volume type|not be found/i);
  });

  it('is told why a type that volumes are of is neither changed nor deleted', async () => {
    const { id } = await lab.addType({ name: 'used' });
    await lab.addVolume(lab.projects.two, { typeId: id });
    assert.match(await admin.fails('volume', 'type', 'delete', 'used'), /is still in use/);
    // The client keeps to itself why encryption is not changed, and ends as if it were.
    assert.match(await admin.fails('volume', 'type', 'set', 'used', '--property', 'a=b'), /is currently in use/);
    const encrypt = ['--encryption-provider', 'luks', '--encryption-control-location', 'front-end'];
    await admin.does('volume', 'type', 'set', 'used', ...encrypt);
    const { body } = await lab.admin('GET', `/types/${id}/encryption`);
    assert.deepEqual(body, {});
  });

  it('gives a private type to a project and takes it away', async () => {
    const names = async () => (await list(member, 'volume', 'type', 'list')).map((row) => row.Name);
    await admin.does('volume', 'type', 'create', 'private', '--private');
    assert.ok(!(await names()).includes('private'));
    await admin.does('volume', 'type', 'set', 'private', '--project', 'one');
    assert.ok((await names()).includes('private'));
    const shown = await show(admin, 'volume', 'type', 'show', 'private');
    assert.deepEqual(shown.access_project_ids, [lab.projects.one]);
    await admin.does('volume', 'type', 'unset', 'private', '--project', 'one');
    assert.ok(!(await names()).includes('private'));
    assert.match(await member.fails('volume', 'type', 'create', 'mine'), /Policy doesn't allow/);
  });

  it('sees the default type', async () => {
    const [row] = await list(member, 'volume', 'type', 'list', '--default');
    assert.equal(row?.Name, '__DEFAULT__');
  });

  it('sets quotas of a project and of the class default, and shows them beside the limits', async () => {
    await admin.does('quota', 'set', '--volumes', '7', '--gigabytes', '70', '--snapshots', '6', 'one');
    await admin.does('quota', 'set', '--class', '--backups', '3', 'default');
    const shown = await show(admin, 'quota', 'show', 'one');
    const limit = (name: string) => shown[name];
    assert.deepEqual(['volumes', 'gigabytes', 'snapshots', 'backups'].map(limit), [7, 70, 6, 3]);
    const limits = await list(member, 'limits', 'show', '--absolute');
    const value = (name: string) => limits.find((row) => row.Name === name)?.Value;
    assert.deepEqual([value('maxTotalVolumes'), value('totalVolumesUsed')], [7, 0]);
    assert.match(await admin.fails('quota', 'set', '--volumes', '-5', 'one'), /must be >= -1|invalid/i);
  });

  it('finds where volumes can lie', async () => {
    const services = await list(admin, 'volume', 'service', 'list', '--service', 'cinder-volume');
    assert.deepEqual([services[0]?.Host, services[0]?.State], ['host-1@files', 'up']);
    const zones = await list(member, 'availability', 'zone', 'list', '--volume');
    assert.equal(zones[0]?.['Zone Name'], 'nova');
    const extensions = await list(member, 'extension', 'list', '--volume');
    assert.ok(extensions.some((row) => row.Alias === 'os-quota-sets'));
  });

  it('reads what failed, and clears it away', async () => {
    await insertMessage(lab.db, {
      ...{ project_id: lab.projects.one, request_id: 'req-1', resource_type: 'VOLUME', resource_uuid: 'volume-1' },
      ...{ event: '001_003', text: 'schedule allocate volume:Could not find any available weighted backend.' },
    });
    const at = ['--os-volume-api-version', '3.3', 'volume', 'message'];
    const [message] = await list(member, ...at, 'list');
    assert.match(String(message?.['User Message']), /Could not find any available weighted backend/);
    await member.does(...at, 'delete', String(message?.ID));
    assert.deepEqual(await list(member, ...at, 'list'), []);
  });
});
