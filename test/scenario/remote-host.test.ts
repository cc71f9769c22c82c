import assert from 'node:assert/strict';
import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import type { JsonObject } from '#cli/cloud/client.ts';
import { connectPool, openDatabase } from '#db/database.ts';
import { LocalKeyStore } from '#keys/local/key-store.ts';
import { readRootKey } from '#keys/local/root-key.ts';
import { CrashLab } from '#test/support/crash-lab.ts';
import { guestsOf } from '#test/support/destroy-state.ts';
import { enrollWith, FarHost } from '#test/support/far-host.ts';
import { findInMemory } from '#test/support/memory-scan.ts';
import { nightlatch } from '#test/support/nightlatch-command.ts';
import { findStrays } from '#test/support/strays.ts';
import { waitUntil } from '#test/support/wait.ts';

/** A control plane without a host of its own, and a host elsewhere that it reaches over mutual TLS. */

let lab: CrashLab;
let host: FarHost;
before(async () => {
  lab = await CrashLab.open({ localHost: false });
  host = await FarHost.start(enrollWith(lab.service));
  await waitForState('up');
});
after(async () => {
  await host?.[Symbol.asyncDispose]();
  await lab?.[Symbol.asyncDispose]();
});

type HostRow = { readonly host: string; readonly state: string; readonly address: string; readonly traits: string };
async function hosts(): Promise<HostRow[]> {
  const { code, stdout, stderr } = await nightlatch('host', 'list', '--config', lab.service.configFile, '-f', 'json');
  assert.equal(code, 0, stderr);
  return JSON.parse(stdout);
}
const waitForState = (state: string) =>
  waitUntil(`the host is ${state}`, async () => (await hosts())[0]?.state === state, 30_000);
const noStrays = async () => assert.deepEqual(await findStrays(lab.service, host.stateDirectory), []);
const act = async (id: string, action: JsonObject, status: string) => {
  await lab.cloud.act(id, action);
  await lab.cloud.waitForStatus(id, status);
  await noStrays();
};
const remove = async (id: string) => {
  await lab.cloud.expect('compute', 'DELETE', `/v2.1/servers/${id}`);
  await lab.cloud.waitUntilGone(id);
  await noStrays();
};

/** Every key that the service has stored, as the bytes that open a disk. */
async function storedKeys(): Promise<Buffer[]> {
  const { stateDirectory } = lab.service;
  await using db = openDatabase(
    connectPool({ host: join(stateDirectory, 'postgresql'), user: 'nightlatch', database: 'nightlatch' }),
  );
  using rootKey = await readRootKey(join(stateDirectory, 'root.key'), {});
  const store = await LocalKeyStore.open(db, rootKey);
  const rows = await db.selectFrom('secrets').select(['id', 'project_id']).execute();
  const secrets = await Promise.all(rows.map((row) => store.get(row.project_id, row.id)));
  return secrets.map((secret) => secret.use((bytes) => Buffer.from(bytes)));
}

describe('a host on another machine', { timeout: 600_000 }, () => {
  it('tells what it is', async () => {
    const [row] = await hosts();
    assert.deepEqual([row?.host, row?.address], ['far', `127.0.0.1:${host.port}`]);
    assert.match(row?.traits ?? '', /COMPUTE_EPHEMERAL_ENCRYPTION_LUKS/);
    const { services } = await lab.cloud.expect('compute', 'GET', '/v2.1/os-services');
    assert.deepEqual([services[0].host, services[0].state], ['far', 'up']);
  });

  it('has no key for its certificates that others may read, nor the authority', async () => {
    const authority = join(lab.service.stateDirectory, 'authority');
    for (const file of [
      join(host.directory, 'host.key'),
      join(authority, 'ca.key'),
      join(authority, 'control-plane.key'),
    ])
      assert.equal((await stat(file)).mode & 0o777, 0o600, file);
    assert.equal((await stat(authority)).mode & 0o777, 0o700);
  });

  it('runs an encrypted server through its whole life, and no key stays in its agent, the service or their logs', async () => {
    const id = await lab.create('far away');
    await lab.cloud.waitForStatus(id, 'ACTIVE');
    await noStrays();
    const guests = await guestsOf(host.stateDirectory);
    assert.deepEqual([guests.length, (await guestsOf(lab.service.stateDirectory)).length], [1, 0]);
    await lab.expectBooted(id);
    const keys = await storedKeys();
    assert.equal(keys.length, 3);
    for (const key of keys) {
      const part = key.subarray(16, 48);
      assert.ok((await findInMemory(guests[0] ?? 0, part)).length > 0, 'the scan finds what is there');
      assert.deepEqual(await findInMemory(host.pid ?? 0, part), [], 'in the agent');
      assert.deepEqual(await findInMemory(lab.service.pid ?? 0, part), [], 'in the service');
      const logs = (await host.log()) + (await lab.service.log());
      for (const spelling of ['latin1', 'hex', 'base64'] as const) assert.ok(!logs.includes(key.toString(spelling)));
      key.fill(0);
    }
    await act(id, { 'os-stop': null }, 'SHUTOFF');
    await act(id, { 'os-start': null }, 'ACTIVE');
    const letter = await lab.expectBooted(id);
    await act(id, { suspend: null }, 'SUSPENDED');
    await act(id, { resume: null }, 'ACTIVE');
    await lab.expectLetter(id, letter);
    await remove(id);
  });

  it('is down when its agent is killed: its guest runs on, nobody is sent there; and comes back as it was', async () => {
    const id = await lab.create('steady');
    await lab.cloud.waitForStatus(id, 'ACTIVE');
    const letter = await lab.expectBooted(id);
    const guests = await guestsOf(host.stateDirectory);
    await host.end('SIGKILL');
    await waitForState('down');
    const homeless = await lab.create('homeless');
    await assert.rejects(lab.cloud.waitForStatus(homeless, 'ACTIVE'), /No valid host was found/);
    await lab.cloud.expect('compute', 'DELETE', `/v2.1/servers/${homeless}`);
    assert.deepEqual(await guestsOf(host.stateDirectory), guests);
    await host.launch();
    await waitForState('up');
    assert.equal((await lab.cloud.server(id)).status, 'ACTIVE');
    await lab.expectLetter(id, letter);
    await noStrays();
    const { code, stderr } = await nightlatch('host', 'remove', 'far', '--config', lab.service.configFile);
    assert.deepEqual([code, /1 servers are there/.test(stderr)], [1, true], stderr);
    await remove(id);
  });

  it('is known no more once it is removed, and again once it is enrolled', async () => {
    const { code, stderr } = await nightlatch('host', 'remove', 'far', '--config', lab.service.configFile);
    assert.equal(code, 0, stderr);
    assert.deepEqual(await hosts(), []);
    await enrollWith(lab.service)('far', host.directory, `127.0.0.1:${host.port}`);
    // Its agent still shows the certificate from before.
    await waitUntil('the old certificate is refused', async () => (await lab.service.log()).includes('enrolled with'));
    assert.equal((await hosts())[0]?.state, 'down');
    assert.equal(await host.end('SIGTERM'), 0);
    await host.launch();
    await waitForState('up');
  });
});
