import assert from 'node:assert/strict';
import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { CLOUD_NAME, writeCloudsYaml } from '#main/clouds-yaml.ts';
import { addImage, type ComputeLab, openComputeLab, PASSWORD } from '#test/support/compute-lab.ts';
import { type OpenStackClient, openStackClient } from '#test/support/openstack-client.ts';

/*
 * What the client asks at the least microversion, 2.1, which is what it takes when nobody names one, and what it asks of
 * a cloud where there is nothing. How servers really run is for `openstack-client.test.ts`.
 */

let lab: ComputeLab;
let folder: string;
let admin: OpenStackClient;
let member: OpenStackClient;

before(async () => {
  folder = await mkdtemp('/var/tmp/nightlatch-client-');
  lab = await openComputeLab();
  await lab.app.listen({ port: 0, host: '127.0.0.1' });
  admin = await clientFor('root', 'operators');
  member = await clientFor('member', 'one');
  await addImage(lab.db, lab.projects.one, { properties: { hw_ephemeral_encryption: 'true' } });
  await admin.does('flavor', 'create', '--ram', '64', '--disk', '1', '--vcpus', '1', 'm1.secret');
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

describe('the openstack client', () => {
  it('boots at the least microversion too, and reads and opens the console', async () => {
    await member.does('server', 'create', 'old', '--image', 'debian', '--flavor', 'm1.secret');
    const [server] = await lab.db.selectFrom('servers').selectAll().where('name', '=', 'old').execute();
    await lab.operations.run(String(server?.id));
    lab.operations.consoleText = 'booting\nlogin:\n';
    await member.does('console', 'log', 'show', 'old');
    const { url } = (await member.json('console', 'url', 'show', '--serial', 'old')) as Row;
    assert.match(String(url), /^ws:\/\/127\.0\.0\.1:\d+\/compute\/serial\/\?token=/);
    assert.match(await member.fails('server', 'migrate', 'old'), /403|501/);
    assert.match(await member.fails('server', 'start', 'old'), /while it is in vm_state active/);
  });

  it('resizes, confirms and rebuilds', async () => {
    await admin.does('flavor', 'create', '--ram', '128', '--disk', '2', '--vcpus', '1', 'm2.secret');
    const [server] = await lab.db.selectFrom('servers').selectAll().where('name', '=', 'old').execute();
    const id = String(server?.id);
    const resized = {
      vm_state: 'resized',
      old_vm_state: 'active',
      old_flavor: JSON.stringify(server?.flavor),
    } as const;
    await member.does('server', 'resize', '--flavor', 'm2.secret', 'old');
    await lab.operations.end(id, resized);
    await member.does('server', 'resize', 'confirm', 'old');
    await lab.operations.end(id, { vm_state: 'active' });
    const rebuild = ['--image', 'debian', '--name', 'new', '--password', 'pass', '--property', 'a=b'];
    const rebuilt = (await member.json('server', 'rebuild', ...rebuild, 'old')) as Row;
    assert.deepEqual([rebuilt.name, rebuilt.adminPass, rebuilt.status], ['new', 'pass', 'REBUILD']);
    assert.deepEqual(rebuilt.properties, { a: 'b' });
  });

  it('sees hosts as an admin, and nothing where there is nothing', async () => {
    for (const list of ['keypair', 'server group', 'hypervisor', 'compute service']) {
      assert.deepEqual(await admin.json(...list.split(' '), 'list'), [], list);
    }
    assert.equal(((await admin.json('availability', 'zone', 'list', '--compute')) as Row[]).length, 1);
    assert.ok(((await member.json('limits', 'show', '--absolute')) as Row[]).length > 5);
    assert.match(await member.fails('server', 'list', '--all-projects'), /403/);
  });
});
