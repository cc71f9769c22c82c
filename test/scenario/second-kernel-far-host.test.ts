import assert from 'node:assert/strict';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import type { JsonObject } from '#cli/cloud/client.ts';
import { GuestConsole } from '#cli/cloud/guest-console.ts';
import { GIB } from '#core/sizes.ts';
import { expectBooted } from '#test/support/boot-guest.ts';
import { enrollWith } from '#test/support/far-host.ts';
import { KernelNetwork } from '#test/support/kernel-network.ts';
import { SecondKernel } from '#test/support/second-kernel.ts';
import { ServerLab } from '#test/support/server-lab.ts';
import { waitUntil } from '#test/support/wait.ts';

/**
 * The control plane here, one compute host in a second kernel: its agent alone, with libvirt, logical volumes and
 * dm-crypt, reached through a network. Servers are driven by the API; what is unlocked is looked up inside.
 */
const GROUP = 'nl-far';
const PORT = 5090;
const STATE = '/var/tmp/nl-far';
const SLOW = { timeout: 1_800_000 };
/** Everything is slow in there, the more so when this machine has other work. */
const PATIENCE_MS = 600_000;

/** It takes some minutes: `npm test` leaves it to `npm run prove -- lvm`. */
if (process.env.NIGHTLATCH_TEST_DEPTH !== 'covering') {
  const network = new KernelNetwork();
  let lab: ServerLab;
  let kernel: SecondKernel;
  let image: string;

  before(async () => {
    lab = await ServerLab.open({ localHost: false, shutdownTimeout: 5 });
    kernel = await SecondKernel.start({ disks: [20 * GIB], memoryMib: 2048, network });
    await kernel.must('vgcreate', '-q', GROUP, ...kernel.disks);
    await startAgent();
    image = await lab.addBootImage();
  }, SLOW);
  after(async () => {
    await kernel?.[Symbol.asyncDispose]();
    await lab?.[Symbol.asyncDispose]();
  });

  const files = () => join(kernel.exchange, 'agent');
  const agentLog = () => readFile(join(files(), 'log'), 'utf8').catch(() => '');

  async function startAgent(): Promise<void> {
    await mkdir(files(), { recursive: true });
    const address = `${network.inside}:${PORT}`;
    await enrollWith(lab.service)('far', files(), address);
    await writeFile(join(files(), 'nightlatch.toml'), agentConfig(files(), address));
    const command = `cd ${process.cwd()} && ${process.execPath} src/cli/main.ts host-agent --config ${files()}/nightlatch.toml`;
    await kernel.must('sh', '-c', `(${command}) >${files()}/log 2>&1 </dev/null & echo $!`);
    const isUp = async () => (await hostState()) === 'up';
    await waitUntil('the host is up', isUp, PATIENCE_MS).catch(async (error) => {
      throw new Error(`${error}: ${(await agentLog()).slice(-3000)}`);
    });
  }

  async function hostState(): Promise<string> {
    const { services } = await lab.cloud.expect('compute', 'GET', '/v2.1/os-services');
    return services[0]?.state ?? 'unknown';
  }

  /** What the kernel inside holds open, with keys in the table or in its key ring. */
  async function unlocked(): Promise<{ mappings: string[]; keys: string[] }> {
    const lines = async (...command: [string, ...string[]]) => (await kernel.must(...command)).split('\n');
    const mappings = (await lines('dmsetup', 'table', '--showkeys')).filter((line) => / crypt /.test(line));
    const keys = (await lines('cat', '/proc/keys')).filter((line) => line.includes('cryptsetup'));
    return { mappings: mappings.sort(), keys };
  }
  const assertLocked = async (when: string) => assert.deepEqual(await unlocked(), { mappings: [], keys: [] }, when);
  const assertOpen = async (count: number, when: string) =>
    assert.equal((await unlocked()).mappings.length, count, when);

  const act = async (id: string, action: JsonObject, status: string) => {
    await lab.cloud.act(id, action);
    await lab.cloud.waitForStatus(id, status, PATIENCE_MS);
  };
  const remove = async (id: string) => {
    await lab.cloud.expect('compute', 'DELETE', `/v2.1/servers/${id}`);
    await lab.cloud.waitUntilGone(id, PATIENCE_MS);
  };
  const expectLetter = async (id: string, letter: string) => {
    using guest = await GuestConsole.open(await lab.cloud.serialConsoleUrl(id));
    assert.equal((await guest.exchange('n', /[a-z]/, 30_000))[0], letter);
  };
  const create = async (format: string) => {
    const specs = { 'hw:ephemeral_encryption': 'true', 'hw:ephemeral_encryption_format': format };
    const flavor = await lab.addFlavor(specs, { disk: 0, ephemeral: 0, swap: 8 });
    const { body } = await lab.ask(flavor, image, { config_drive: false });
    await lab.cloud.waitForStatus(body.server.id, 'ACTIVE', PATIENCE_MS);
    return body.server.id as string;
  };
  const DISKS = 2;

  describe('a host in a second kernel, its control plane outside', SLOW, () => {
    for (const format of ['luksv2', 'plain']) {
      it(`unlocks ${format} disks only while their guest runs`, SLOW, async () => {
        const id = await create(format);
        await assertOpen(DISKS, 'created');
        await expectBooted(lab.cloud, id);
        await act(id, { 'os-stop': null }, 'SHUTOFF');
        await assertLocked('stopped');
        await act(id, { 'os-start': null }, 'ACTIVE');
        await assertOpen(DISKS, 'started');
        const letter = await expectBooted(lab.cloud, id);
        await act(id, { suspend: null }, 'SUSPENDED');
        await assertLocked('suspended');
        await act(id, { resume: null }, 'ACTIVE');
        await assertOpen(DISKS, 'resumed');
        await expectLetter(id, letter);
        await kernel.must('pkill', '-KILL', '-f', `qemu-system.*${id}`);
        await lab.cloud.waitForStatus(id, 'SHUTOFF', PATIENCE_MS);
        await assertLocked('after its QEMU crashed');
        await remove(id);
        await assertLocked('deleted');
        assert.equal((await kernel.must('lvs', '--noheadings', GROUP)).trim(), '', 'its volumes are gone');
      });
    }

    it('runs its guests on while nobody reaches it, and unlocks nothing new', SLOW, async () => {
      const [running, stopped] = [await create('luksv2'), await create('luksv2')];
      await act(stopped, { 'os-stop': null }, 'SHUTOFF');
      const letter = await expectBooted(lab.cloud, running);
      const before = await unlocked();
      assert.equal(before.mappings.length, DISKS);

      network.cut();
      await waitUntil('the loss is noticed', async () => (await hostState()) === 'down', PATIENCE_MS);
      await lab.cloud.act(stopped, { 'os-start': null });
      await waitUntil(
        'the start was tried',
        async () => (await lab.service.log()).includes('start server failed'),
        60_000,
      );
      assert.deepEqual(await unlocked(), before, 'something was locked or unlocked while nobody was connected');

      network.mend();
      await waitUntil('the host is back', async () => (await hostState()) === 'up', PATIENCE_MS);
      await expectLetter(running, letter);
      const settled = async () => (await lab.cloud.server(stopped))['OS-EXT-STS:task_state'] === null;
      await waitUntil('the server that could not start is given back', settled, PATIENCE_MS);
      const { status } = await lab.cloud.server(stopped);
      await assertOpen(status === 'ACTIVE' ? 2 * DISKS : DISKS, `after the network is back (${status})`);
      for (const id of [running, stopped]) await remove(id);
      await assertLocked('deleted');
    });
  });
}

function agentConfig(files: string, address: string): string {
  return [
    '[DEFAULT]',
    `state_path = "${STATE}"`,
    'host = "far"',
    '[libvirt]',
    'images_type = "lvm"',
    `images_volume_group = "${GROUP}"`,
    'virt_type = "qemu"',
    '[host_agent]',
    `listen = "${address}"`,
    `certificate = "${files}/host.crt"`,
    `key = "${files}/host.key"`,
    `ca = "${files}/ca.crt"`,
  ].join('\n');
}
