import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { after, afterEach, before, describe, test } from 'node:test';
import { NightlatchError } from '#core/errors.ts';
import { type HostPath, newId, type ServerId } from '#core/ids.ts';
import { Secret } from '#core/secret.ts';
import type { DomainKey, DomainSpec, HypervisorEvent } from '#host/hypervisor/hypervisor.ts';
import { LibvirtHypervisor } from '#host/hypervisor/libvirt/driver.ts';
import { PrivateLibvirt } from '#host/hypervisor/libvirt/private-daemon.ts';
import { releaseRunDirectory } from '#host/run-directory.ts';
import { makeBootDisk } from '#test/support/boot-sector.ts';

const WAIT_MS = 20_000;

describe('a hypervisor (libvirt, real guests)', { timeout: 240_000 }, () => {
  let data: string;
  let libvirt: PrivateLibvirt;
  let hypervisor: LibvirtHypervisor;
  const events: HypervisorEvent[] = [];

  before(async () => {
    data = await mkdtemp('/tmp/nl-hv-');
    libvirt = await PrivateLibvirt.start({
      runDirectory: `${data}/run` as HostPath,
      cacheDirectory: `${data}/cache` as HostPath,
      onTrouble: (error) => assert.fail(String(error)),
    });
    hypervisor = await LibvirtHypervisor.open({
      uri: libvirt.uri,
      libvirtdPidFile: libvirt.libvirtdPidFile,
      runDirectory: `${data}/run` as HostPath,
      virtType: 'qemu',
    });
    hypervisor.onEvent((event) => events.push(event));
  });

  after(async () => {
    await hypervisor?.[Symbol.asyncDispose]();
    await libvirt?.stop();
    await releaseRunDirectory(`${data}/run` as HostPath);
    await rm(data, { recursive: true });
  });

  afterEach(async () => {
    for (const { serverId } of await hypervisor.domains()) await hypervisor.destroy(serverId);
    assert.deepEqual(await hypervisor.secrets(), []);
    assert.deepEqual(await qemuPids(data), []);
  });

  /** A server with one encrypted boot disk, and its key. */
  async function encryptedServer(): Promise<{ spec: DomainSpec; keys: DomainKey[] }> {
    const serverId = newId<ServerId>();
    const key = Secret.generate();
    const path = `${data}/${serverId}.raw` as HostPath;
    await makeBootDisk(path, key);
    const secretUuid = randomUUID();
    const disk = {
      attachment: { path, format: 'raw' },
      target: 'vda',
      device: 'disk',
      serial: serverId.slice(0, 20),
      encryption: { format: 'luks', secretUuid },
    } as const;
    const name = `instance-${serverId.slice(0, 8)}`;
    const rest = {
      displayName: 'a <server> & "more"',
      projectId: 'p1',
      vcpus: 1,
      memoryMib: 64,
      network: 'none',
    } as const;
    return { spec: { serverId, name, ...rest, disks: [disk] }, keys: [{ secretUuid, usage: `disk/${serverId}`, key }] };
  }

  async function started(): Promise<{ spec: DomainSpec; keys: DomainKey[]; id: ServerId }> {
    const { spec, keys } = await encryptedServer();
    await hypervisor.start(spec, keys);
    assert.deepEqual(await hypervisor.secrets(), []);
    return { spec, keys, id: spec.serverId };
  }

  function says(id: ServerId, end: string): Promise<string> {
    return until(`the console of ${id} ends with ${JSON.stringify(end)}`, async () => {
      const log = (await hypervisor.consoleLog(id, 1000)).toString('latin1');
      return log.endsWith(end) ? log : null;
    });
  }

  function ended(id: ServerId): Promise<HypervisorEvent> {
    const ours = (event: HypervisorEvent) => event.kind === 'ended' && event.serverId === id;
    return until(`server ${id} has ended`, async () => events.find(ours) ?? null);
  }

  test('start runs the guest from an encrypted disk; a repeat is fine; destroy leaves no process', async () => {
    const { spec, keys, id } = await started();
    await says(id, 'READY\n');
    const [pid] = await qemuPids(data);
    await hypervisor.start(spec, keys);
    assert.deepEqual(await qemuPids(data), [pid]);
    assert.deepEqual(await hypervisor.domains(), [{ serverId: id, name: spec.name, state: 'running' }]);
    await hypervisor.destroy(id);
    assert.deepEqual(await qemuPids(data), []);
    assert.equal(await hypervisor.state(id), 'absent');
    assert.deepEqual(await ended(id), { kind: 'ended', serverId: id, why: 'destroyed' });
    await hypervisor.destroy(id);
  });

  test('a wrong key starts nothing and leaves nothing', async () => {
    const { spec, keys } = await encryptedServer();
    const wrong = keys.map((key) => ({ ...key, key: Secret.generate() }));
    await assert.rejects(hypervisor.start(spec, wrong), failsWith('hypervisor-failed', /Invalid password/));
    assert.deepEqual(await hypervisor.secrets(), []);
    assert.deepEqual(await hypervisor.domains(), []);
    assert.deepEqual(await qemuPids(data), []);
  });

  test('pause stops the guest, unpause lets it go on; repeats are fine', async () => {
    const { id } = await started();
    await says(id, 'READY\n');
    await hypervisor.pause(id);
    await hypervisor.pause(id);
    assert.equal(await hypervisor.state(id), 'paused');
    await hypervisor.unpause(id);
    await hypervisor.unpause(id);
    assert.equal(await hypervisor.state(id), 'running');
    await type(hypervisor.consoleSocket(id), 'n');
    await says(id, 'READY\na');
  });

  test('the end of a guest is told within a second', async () => {
    const { id } = await started();
    await says(id, 'READY\n');
    await type(hypervisor.consoleSocket(id), 'p');
    const asked = Date.now();
    assert.deepEqual(await ended(id), { kind: 'ended', serverId: id, why: 'guest-shutdown' });
    assert.ok(Date.now() - asked < 1000, `took ${Date.now() - asked} ms`);
    assert.equal(await hypervisor.state(id), 'absent');
  });

  test('a QEMU that is killed is told', async () => {
    const { id } = await started();
    const [pid] = await qemuPids(data);
    process.kill(Number(pid), 'SIGKILL');
    assert.deepEqual(await ended(id), { kind: 'ended', serverId: id, why: 'failed' });
  });

  test('shutdown asks the guest; an absent domain is fine', async () => {
    const { id } = await started();
    await says(id, 'READY\n');
    assert.equal(await hypervisor.shutdown(id, WAIT_MS), true);
    assert.equal(await hypervisor.shutdown(id, WAIT_MS), true);
  });

  test('shutdown of a guest that does not listen returns false', async () => {
    const { id } = await started();
    await hypervisor.pause(id);
    assert.equal(await hypervisor.shutdown(id, 200), false);
  });

  test('save and restore: the same memory goes on, paused at first', async () => {
    const { spec, keys, id } = await started();
    await says(id, 'READY\n');
    await type(hypervisor.consoleSocket(id), 'n');
    await says(id, 'READY\na');
    const file = `${data}/${id}.save` as HostPath;
    await writeFile(file, '');
    await hypervisor.save(id, file);
    assert.deepEqual(await ended(id), { kind: 'ended', serverId: id, why: 'saved' });
    assert.deepEqual(await qemuPids(data), []);
    await hypervisor.restore(spec, file, keys);
    assert.deepEqual(await hypervisor.secrets(), []);
    assert.equal(await hypervisor.state(id), 'paused');
    await hypervisor.restore(spec, file, keys);
    await hypervisor.unpause(id);
    await type(hypervisor.consoleSocket(id), 'n');
    await says(id, 'READY\nab');
  });

  test('saving under the unlocked folder is refused unless libvirt sees the same FUSE mount there', async () => {
    const { id } = await started();
    const file = `${data}/run/unlocked/memory` as HostPath;
    await writeFile(file, '');
    await assert.rejects(hypervisor.save(id, file), failsWith('memory-unprotected', /not unlocked/));
    assert.equal((await readFile(file)).length, 0);
    assert.equal(await hypervisor.state(id), 'running');
    await rm(file);
  });

  test('a call worker that is killed is replaced', async () => {
    const { id } = await started();
    for (const pid of hypervisor.workerPids.calls) process.kill(pid, 'SIGKILL');
    assert.equal(await hypervisor.state(id), 'running');
  });

  test('an event worker that is killed is replaced, which is told', async () => {
    const { id } = await started();
    const told = events.length;
    process.kill(Number(hypervisor.workerPids.events), 'SIGKILL');
    await until('reconnected', async () => events.slice(told).find(({ kind }) => kind === 'reconnected') ?? null);
    await hypervisor.destroy(id);
    await ended(id);
  });

  test('a libvirtd that is killed comes back and finds its guests', async () => {
    const { id } = await started();
    await says(id, 'READY\n');
    const told = events.length;
    const pid = (await readFile(libvirt.libvirtdPidFile, 'utf8')).trim();
    process.kill(Number(pid), 'SIGKILL');
    await until('reconnected', async () => events.slice(told).find(({ kind }) => kind === 'reconnected') ?? null);
    assert.notEqual((await readFile(libvirt.libvirtdPidFile, 'utf8')).trim(), pid);
    assert.equal((await hypervisor.domains())[0]?.serverId, id);
    await type(hypervisor.consoleSocket(id), 'n');
    await says(id, 'READY\na');
  });
});

function failsWith(code: string, message: RegExp): (error: unknown) => boolean {
  return (error) => {
    assert.ok(error instanceof NightlatchError, String(error));
    assert.equal(error.code, code, error.message);
    assert.match(error.message, message);
    return true;
  };
}

async function until<T>(what: string, look: () => Promise<T | null>): Promise<T> {
  const deadline = Date.now() + WAIT_MS;
  for (;;) {
    const found = await look();
    if (found !== null) return found;
    if (Date.now() > deadline) throw new Error(`waited in vain: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

/** Sends text to a guest's serial port. */
async function type(socket: HostPath, text: string): Promise<void> {
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  const client = connect(socket);
  client.once('error', reject);
  client.end(text, resolve);
  await promise;
  client.destroy();
}

/** The QEMU processes that have something under `folder` on their command line. */
async function qemuPids(folder: string): Promise<string[]> {
  const pids = (await readdir('/proc')).filter((name) => /^\d+$/.test(name));
  const lines = await Promise.all(pids.map((pid) => readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '')));
  return pids.filter((_, i) => lines[i]?.includes('qemu-system') && lines[i]?.includes(folder));
}
