import assert from 'node:assert/strict';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { CLOUD_NAME, writeCloudsYaml } from '#main/clouds-yaml.ts';
import { addImage, type ComputeLab, openComputeLab, PASSWORD } from '#test/support/compute-lab.ts';
import { type OpenStackClient, openStackClient } from '#test/support/openstack-client.ts';

/** The highest microversion that Debian's client speaks; without it, it asks for 2.1. */
const LATEST = ['--os-compute-api-version', '2.92'];

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
  await writeFile(join(folder, 'user-data'), '#!/bin/sh\n');
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
const column = (rows: unknown, name: string): unknown[] => (rows as Row[]).map((row) => row[name]);

describe('the openstack client', () => {
  it('manages flavors and their encryption', async () => {
    const encrypted = ['--property', 'hw:ephemeral_encryption=true'];
    const format = ['--property', 'hw:ephemeral_encryption_format=luks'];
    await admin.does('flavor', 'create', 'm1.secret', '--ram', '64', '--disk', '2', '--swap', '8', ...encrypted);
    await admin.does('flavor', 'set', 'm1.secret', ...format);
    const flavor = (await member.json(...LATEST, 'flavor', 'show', 'm1.secret')) as Row;
    assert.deepEqual(flavor.properties, {
      'hw:ephemeral_encryption': 'true',
      'hw:ephemeral_encryption_format': 'luks',
    });
    await admin.does('flavor', 'set', 'm1.secret', '--property', 'a=b');
    await admin.does('flavor', 'unset', 'm1.secret', '--property', 'a');
    assert.deepEqual(column(await member.json('flavor', 'list', '--long'), 'Properties'), [flavor.properties]);
    const wrong = ['--property', 'hw:ephemeral_encryption_format=rot13'];
    assert.match(await admin.fails(...LATEST, 'flavor', 'set', 'm1.secret', ...wrong), /luks, luksv2/);
    assert.match(await member.fails('flavor', 'create', 'mine'), /403/);
  });

  it('runs a server through its life', async () => {
    const boot = ['--image', 'debian', '--flavor', 'm1.secret', '--user-data', join(folder, 'user-data')];
    const more = ['--nic', 'none', '--config-drive', 'True', '--property', 'k=v'];
    const made = (await member.json(...LATEST, 'server', 'create', 'web', ...boot, ...more)) as Row;
    assert.deepEqual([made.status, made.config_drive, made.properties], ['BUILD', 'True', { k: 'v' }]);
    assert.deepEqual(lab.operations.requests[0]?.intent, { encrypted: true, format: 'luks' });
    const id = String(made.id);
    await lab.operations.run(id);
    assert.deepEqual(column(await member.json('server', 'list'), 'Status'), ['ACTIVE']);
    for (const [command, vmState] of [
      ['stop', 'stopped'],
      ['start', 'active'],
      ['suspend', 'suspended'],
      ['resume', 'active'],
    ] as const) {
      await member.does('server', command, 'web');
      await lab.operations.end(id, { vm_state: vmState });
    }
    await member.does(...LATEST, 'server', 'set', 'web', '--name', 'db', '--property', 'x=y');
    const shown = (await member.json('server', 'show', 'db')) as Row;
    assert.deepEqual([shown.status, shown.properties], ['ACTIVE', { k: 'v', x: 'y' }]);
    await member.does('server', 'delete', 'db');
    await lab.operations.end(id, { vm_state: 'deleted' });
    assert.deepEqual(await member.json('server', 'list'), []);
  });

  it('boots at the least microversion too, and reads and opens the console', async () => {
    await member.does('server', 'create', 'old', '--image', 'debian', '--flavor', 'm1.secret');
    const [server] = await lab.db.selectFrom('servers').selectAll().where('name', '=', 'old').execute();
    await lab.operations.run(String(server?.id));
    lab.operations.consoleText = 'booting\nlogin:\n';
    await member.does('console', 'log', 'show', 'old');
    const { url } = (await member.json('console', 'url', 'show', '--serial', 'old')) as Row;
    assert.match(String(url), /^ws:\/\/127\.0\.0\.1:\d+\/compute\/serial\/\?token=/);
    assert.match(await member.fails('server', 'rescue', 'old'), /501/);
    assert.match(await member.fails('server', 'start', 'old'), /while it is in vm_state active/);
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
