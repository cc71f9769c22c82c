import assert from 'node:assert/strict';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { GuestConsole } from '#cli/cloud/guest-console.ts';
import { CrashLab } from '#test/support/crash-lab.ts';
import { guestsOf } from '#test/support/destroy-state.ts';
import { nightlatch } from '#test/support/nightlatch-command.ts';
import { waitUntil } from '#test/support/wait.ts';

/** The service is ended and started again; guests and operations do not mind. */

type Lease = { readonly disk: string; readonly reason: string };
/** Longer than the service waits for its operations when it ends. */
const SHUTDOWN_S = 9;

let lab: CrashLab;
before(async () => {
  lab = await CrashLab.open({ shutdownTimeout: SHUTDOWN_S });
});
after(() => lab[Symbol.asyncDispose]());

async function leases(): Promise<Lease[]> {
  const { code, stdout, stderr } = await nightlatch(
    'key',
    'lease',
    'list',
    '--config',
    lab.service.configFile,
    '-f',
    'json',
  );
  assert.equal(code, 0, stderr);
  return JSON.parse(stdout);
}

async function running(name: string): Promise<string> {
  const id = await lab.create(name);
  await lab.cloud.waitForStatus(id, 'ACTIVE');
  return id;
}

async function relaunch(): Promise<void> {
  await lab.service.launch();
  lab.cloud = await lab.service.client();
}

const guests = () => guestsOf(lab.service.stateDirectory);

describe('the service ends', { timeout: 600_000 }, () => {
  for (const signal of ['SIGTERM', 'SIGINT'] as const) {
    it(`by ${signal} with exit code 0; the guest runs on, and the next start finds it`, async () => {
      const id = await running(signal);
      const letter = await lab.expectBooted(id);
      const [before, held] = [await guests(), await leases()];
      assert.deepEqual([before.length, held.length], [1, 3]);
      assert.equal(await lab.service.end(signal), 0);
      assert.match(await lab.service.log(), new RegExp(`^${signal}: stopping; guests run on$`, 'm'));
      assert.deepEqual(await guests(), before);
      await relaunch();
      assert.equal((await lab.cloud.server(id)).status, 'ACTIVE');
      assert.deepEqual(await guests(), before);
      assert.deepEqual(await leases(), held);
      await lab.expectLetter(id, letter);
      await lab.remove(id);
    });
  }

  it('and a guest that ends meanwhile is found locked', async () => {
    const id = await running('mayfly');
    const [pid] = await guests();
    assert.ok(pid);
    assert.equal(await lab.service.end('SIGTERM'), 0);
    process.kill(pid, 'SIGKILL');
    await waitUntil('the guest is gone', async () => (await guests()).length === 0);
    await relaunch();
    await lab.cloud.waitForStatus(id, 'SHUTOFF');
    assert.deepEqual(await leases(), []);
    await lab.cloud.act(id, { 'os-start': null });
    await lab.cloud.waitForStatus(id, 'ACTIVE');
    await lab.expectBooted(id);
    await lab.remove(id);
  });
});

describe('the service ends in the middle of an operation, the next start completes it', { timeout: 600_000 }, () => {
  it('create', async () => {
    const id = await lab.create('young');
    assert.equal((await lab.cloud.server(id)).status, 'BUILD');
    assert.equal(await lab.service.end('SIGTERM'), 0);
    await relaunch();
    await lab.cloud.waitForStatus(id, 'ACTIVE');
    await lab.expectBooted(id);
    await lab.remove(id);
  });

  it('suspend', async () => {
    const id = await running('drowsy');
    const letter = await lab.expectBooted(id);
    await lab.cloud.act(id, { suspend: null });
    assert.equal((await lab.cloud.server(id))['OS-EXT-STS:task_state'], 'suspending');
    assert.equal(await lab.service.end('SIGTERM'), 0);
    await relaunch();
    await lab.cloud.waitForStatus(id, 'SUSPENDED');
    assert.deepEqual(await leases(), []);
    await lab.cloud.act(id, { resume: null });
    await lab.cloud.waitForStatus(id, 'ACTIVE');
    await lab.expectLetter(id, letter);
    await lab.remove(id);
  });

  it('stop of a guest that does not heed its power button, which takes longer than the service waits', async () => {
    const id = await running('deaf');
    await lab.expectBooted(id);
    {
      using guest = await GuestConsole.open(await lab.cloud.serialConsoleUrl(id));
      // From now on it writes this letter for ever and looks at nothing else.
      await guest.exchange('f', /fff/);
    }
    await lab.cloud.act(id, { 'os-stop': null });
    assert.equal(await lab.service.end('SIGTERM'), 0);
    assert.equal((await guests()).length, 1, 'the stop was over before the service ended: nothing is tested');
    await relaunch();
    await lab.cloud.waitForStatus(id, 'SHUTOFF');
    assert.deepEqual([await guests(), await leases()], [[], []]);
    await lab.remove(id);
  });
});

describe('the configuration', () => {
  it('is refused with exit code 1 when it has options that do not exist, and they are named', async () => {
    const file = join(lab.service.directory, 'wrong.toml');
    await writeFile(file, 'colour = "blue"\n[libvirt]\nimage_type = "raw"\n[vault]\nurl = "x"\n');
    const { code, stdout, stderr } = await nightlatch('serve', '--config', file);
    assert.deepEqual([code, stdout], [1, '']);
    assert.match(stderr, /^error: .*wrong\.toml failed: /);
    for (const name of ['colour', 'image_type', 'vault']) assert.match(stderr, new RegExp(`\\b${name}\\b`));
  });
});
