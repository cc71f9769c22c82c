import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { run } from '#host/exec.ts';
import { CLOUD_NAME, writeCloudsYaml } from '#main/clouds-yaml.ts';
import { type ApiLab, startApiLab } from '#test/support/api-lab.ts';
import { type OpenStackClient, openStackClient } from '#test/support/openstack-client.ts';

let lab: ApiLab;
let folder: string;
let admin: OpenStackClient;
before(async () => {
  folder = await mkdtemp('/var/tmp/nightlatch-client-');
  lab = await startApiLab();
  await lab.app.listen({ port: 0, host: '127.0.0.1' });
  admin = await clientFor(lab.adminCredentials);
});
after(async () => {
  await lab[Symbol.asyncDispose]();
  await rm(folder, { recursive: true, force: true });
});

/** The client of one user, with a `clouds.yaml` such as the service writes. */
async function clientFor(user: { userName: string; password: string; projectName: string }): Promise<OpenStackClient> {
  const { port } = lab.app.server.address() as AddressInfo;
  const authUrl = `http://127.0.0.1:${port}/identity`;
  const own = join(folder, user.userName);
  await mkdir(own);
  await writeCloudsYaml(join(own, 'clouds.yaml'), { ...user, domainId: 'default', authUrl });
  return openStackClient(own, CLOUD_NAME);
}

type Row = Readonly<Record<string, unknown>>;
const column = (rows: unknown, name: string): unknown[] => (rows as Row[]).map((row) => row[name]);

describe('the openstack client', () => {
  it('gets a token and a catalog', async () => {
    const token = (await admin.json('token', 'issue')) as Row;
    assert.equal(token.user_id, lab.admin.userId);
    assert.equal(token.project_id, lab.admin.projectId);
    const catalog = await admin.json('catalog', 'list');
    assert.deepEqual(column(catalog, 'Type'), ['identity', 'image']);
    assert.equal(((await admin.json('endpoint', 'list')) as Row[]).length, 6);
  });

  it('manages projects, users and roles', async () => {
    await admin.does('project', 'create', 'lighthouse', '--description', 'by the sea');
    await admin.does('user', 'create', 'keeper', '--password', 'a lamp at night', '--project', 'lighthouse');
    await admin.does('role', 'add', '--user', 'keeper', '--project', 'lighthouse', 'member');
    assert.ok(column(await admin.json('project', 'list'), 'Name').includes('lighthouse'));
    assert.ok(column(await admin.json('user', 'list'), 'Name').includes('keeper'));
    assert.deepEqual(column(await admin.json('role', 'list'), 'Name'), ['admin', 'member', 'reader']);
    const keeper = await clientFor({ userName: 'keeper', password: 'a lamp at night', projectName: 'lighthouse' });
    assert.deepEqual(column(await keeper.json('project', 'list'), 'Name'), ['lighthouse']);
    assert.match(await keeper.fails('user', 'list'), /403/);
    await admin.does('user', 'delete', 'keeper');
    assert.match(await keeper.fails('token', 'issue'), /401/);
    await admin.does('project', 'delete', 'lighthouse');
  });

  it('uploads, finds, changes, saves and deletes images', async () => {
    const file = join(folder, 'disk.raw');
    const bytes = randomBytes(1_500_000);
    await writeFile(file, bytes);
    const wish = ['--property', 'hw_ephemeral_encryption=true'];
    await admin.does('image', 'create', 'sea', '--disk-format', 'raw', '--file', file, ...wish);
    assert.deepEqual(column(await admin.json('image', 'list'), 'Status'), ['active']);
    await admin.does('image', 'set', 'sea', '--property', 'hw_ephemeral_encryption_format=luks', '--min-disk', '1');
    const image = (await admin.json('image', 'show', 'sea')) as Row;
    const properties = image.properties as Row;
    assert.deepEqual([image.size, image.min_disk, image.status], [1_500_000, 1, 'active']);
    assert.equal(properties.hw_ephemeral_encryption, 'true');
    assert.equal(properties.hw_ephemeral_encryption_format, 'luks');
    await admin.does('image', 'save', 'sea', '--file', `${file}.back`);
    assert.ok((await readFile(`${file}.back`)).equals(bytes));
    await admin.does('image', 'delete', 'sea');
    assert.deepEqual(await admin.json('image', 'list'), []);
  });

  it('says what is wrong with an image that names a file of the host', async () => {
    const file = join(folder, 'thief.qcow2');
    const args = ['create', '-q', '-f', 'qcow2', '-F', 'raw', '-b', '/etc/passwd', file];
    await run('qemu-img', args, { doing: 'Making a bad image' });
    const said = await admin.fails('image', 'create', 'thief', '--disk-format', 'qcow2', '--file', file);
    assert.match(said, /400/);
    assert.match(said, /it has a backing file/);
  });
});
