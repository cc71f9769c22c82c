import assert from 'node:assert/strict';
import { chmod, mkdtemp, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import pino from 'pino';
import { parseConfig } from '#config/load.ts';
import type { DiskSpec } from '#core/disk.ts';
import { NightlatchError } from '#core/errors.ts';
import { type HostName, newId, type ServerId } from '#core/ids.ts';
import { Secret } from '#core/secret.ts';
import { MIB } from '#core/sizes.ts';
import type { HostAgent, HostEvent, ServerSpec } from '#host/host-agent.ts';
import { Authority } from '#host/remote/certificates.ts';
import { RemoteHost } from '#host/remote/remote-host.ts';
import { openLocalHost } from '#main/local-host.ts';
import { statePaths } from '#main/state-paths.ts';
import { destroyState, guestsOf } from '#test/support/destroy-state.ts';
import { someDisk } from '#test/support/disk-lab.ts';
import { FarHost } from '#test/support/far-host.ts';
import { waitUntil } from '#test/support/wait.ts';

/**
 * What every `HostAgent` keeps, whether it is of this process or of another machine: a real host behind either, with
 * libvirt and guests, its disks in files.
 */

type Lab = AsyncDisposable & { readonly agent: HostAgent; readonly stateDirectory: string };

async function inProcess(): Promise<Lab> {
  const directory = await mkdtemp('/var/tmp/nl-');
  await chmod(directory, 0o711);
  const config = parseConfig('[libvirt]\nimages_type = "raw"\nvirt_type = "qemu"\n', 'test');
  const host = await openLocalHost(config, statePaths(directory), pino({ level: 'silent' }));
  const close = async () => {
    await host[Symbol.asyncDispose]();
    await destroyState(directory);
    await rm(directory, { recursive: true, force: true });
  };
  return { agent: host.agent, stateDirectory: directory, [Symbol.asyncDispose]: close };
}

async function overTls(): Promise<Lab> {
  const owned = new AsyncDisposableStack();
  const folder = await mkdtemp('/var/tmp/nl-');
  owned.defer(() => rm(folder, { recursive: true, force: true }));
  const authority = await Authority.open(join(folder, 'authority'));
  let fingerprint = '';
  const enroll = async (name: string, files: string) => {
    fingerprint = await authority.enroll(name, files);
  };
  const far = owned.use(await FarHost.start(enroll, { imagesType: 'raw' }));
  const host = { name: far.name as HostName, address: '127.0.0.1', port: far.port, fingerprint };
  const credentials = await authority.credentials();
  const remote = owned.use(new RemoteHost({ host, credentials, onChange: () => {} }));
  assert.ok(await remote.whenUp(20_000));
  const { agent } = remote;
  return { agent, stateDirectory: far.stateDirectory, [Symbol.asyncDispose]: () => owned.disposeAsync() };
}

function someServer(): { server: ServerSpec; disk: DiskSpec; memory: DiskSpec } {
  const id = newId<ServerId>();
  const disk = someDisk({ serverId: id, role: 'root', sizeBytes: 16 * MIB });
  const memory = someDisk({ serverId: id, role: 'memory', sizeBytes: 320 * MIB });
  const size = { vcpus: 1, memoryMib: 64, network: 'none' } as const;
  const names = { name: 'instance-00000001', displayName: 'one', projectId: 'p' };
  return { server: { id, ...names, disks: [disk], ...size }, disk, memory };
}

const code = (expected: string) => (error: unknown) => error instanceof NightlatchError && error.code === expected;

// `npm test` meets the same verbs in scenario/remote-host and everywhere else.
const kinds =
  process.env.NIGHTLATCH_TEST_DEPTH === 'covering' ? {} : { 'in this process': inProcess, 'over TLS': overTls };
for (const [kind, open] of Object.entries(kinds)) {
  describe(`a host agent ${kind}`, { timeout: 300_000 }, () => {
    let lab: Lab;
    let agent: HostAgent;
    const { server, disk, memory } = someServer();
    const key = Secret.generate();
    const memoryKey = Secret.generate();
    const keys = new Map([[disk.id, key]]);
    before(async () => {
      lab = await open();
      ({ agent } = lab);
    });
    after(() => lab?.[Symbol.asyncDispose]());
    const state = async () => (await agent.inventory()).servers.find(({ id }) => id === server.id)?.state ?? 'absent';

    it('says what it can do', async () => {
      const facts = await agent.describe();
      assert.ok(facts.traits.includes('COMPUTE_EPHEMERAL_ENCRYPTION_LUKS'));
      assert.ok(facts.vcpus > 0 && facts.memoryMib > 0 && facts.diskGib > 0);
      assert.equal(facts.storage, 'raw');
    });

    it('makes a disk, also again, and leaves it locked', async () => {
      for (let i = 0; i < 2; i++) await agent.createDisk(disk, { kind: 'filesystem', label: 'x' }, keys);
      const found = await agent.inventory();
      assert.deepEqual([found.unlockedDisks, found.serversWithDisks], [[], [server.id]]);
    });

    it('tells a wrong key by its catalogue error, and starts nothing', async () => {
      using wrong = Secret.generate();
      await assert.rejects(agent.startServer(server, new Map([[disk.id, wrong]])), code('disk-wrong-key'));
      assert.equal(await state(), 'absent');
    });

    it('starts a server, also one that runs; pauses and unpauses it', async () => {
      for (let i = 0; i < 2; i++) await agent.startServer(server, keys);
      assert.equal(await state(), 'running');
      await agent.pauseServer(server.id);
      assert.equal(await state(), 'paused');
      await agent.unpauseServer(server.id);
      assert.equal(await state(), 'running');
      const console = await agent.openConsole(server.id);
      console.destroy();
      assert.ok((await agent.consoleLog(server.id, 1000)).length <= 1000);
    });

    it('saves a server’s memory and brings it back, paused', async () => {
      await agent.createDisk(memory, { kind: 'blank' }, new Map([[memory.id, memoryKey]]));
      await agent.suspendServer(server.id, memory, memoryKey);
      await agent.suspendServer(server.id, memory, memoryKey);
      assert.equal(await state(), 'absent');
      await agent.stopServer(server.id, [disk, memory], 0);
      await agent.restoreServer(server, memory, new Map([...keys, [memory.id, memoryKey]]));
      assert.equal(await state(), 'paused');
      await agent.unpauseServer(server.id);
      await agent.destroyDisk(memory);
    });

    it('tells when a guest ends by itself', async () => {
      const events: HostEvent[] = [];
      const stop = agent.onEvent((event) => events.push(event));
      const [pid] = await guestsOf(lab.stateDirectory);
      process.kill(Number(pid), 'SIGKILL');
      await waitUntil('the end is told', async () => events.some(({ kind }) => kind === 'server-ended'));
      stop();
      assert.ok(events.some((event) => event.kind === 'server-ended' && event.serverId === server.id));
    });

    it('stops a server and removes its disks, also what is not there', async () => {
      for (let i = 0; i < 2; i++) {
        await agent.stopServer(server.id, [disk], 0);
        await agent.destroyDisk(disk);
        await agent.forgetServer(server.id);
      }
      assert.deepEqual(await agent.inventory(), {
        ...{ servers: [], unlockedDisks: [], libvirtSecrets: [], serversWithDisks: [] },
      });
    });
  });
}
