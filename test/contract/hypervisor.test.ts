import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { after, afterEach, before, describe, test } from 'node:test';
import { NightlatchError } from '#core/errors.ts';
import { type HostPath, newId, type ServerId } from '#core/ids.ts';
import { Secret } from '#core/secret.ts';
import { run } from '#host/exec.ts';
import { grantPrivilege } from '#host/grant.ts';
import type { DomainDisk, DomainKey, DomainSpec, HypervisorEvent } from '#host/hypervisor/hypervisor.ts';
import { secretXml } from '#host/hypervisor/libvirt/domain-xml.ts';
import { LibvirtHypervisor } from '#host/hypervisor/libvirt/driver.ts';
import { LibvirtPool } from '#host/hypervisor/libvirt/pool.ts';
import { PrivateLibvirt } from '#host/hypervisor/libvirt/private-daemon.ts';
import { releaseRunDirectory, runPaths } from '#host/run-directory.ts';
import { bootSector, exportLuks, formatLuks, makeBootDisk } from '#test/support/boot-sector.ts';
import { findInMemory } from '#test/support/memory-scan.ts';

const WAIT_MS = 20_000;

describe('a hypervisor (libvirt, real guests)', { timeout: 240_000 }, () => {
  let data: string;
  let libvirt: PrivateLibvirt;
  let hypervisor: LibvirtHypervisor;
  const events: HypervisorEvent[] = [];

  before(async () => {
    data = await mkdtemp('/tmp/nl-hv-');
    grantPrivilege({ directories: [data] });
    libvirt = await startLibvirt();
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

  function startLibvirt(): Promise<PrivateLibvirt> {
    return PrivateLibvirt.start({
      runDirectory: `${data}/run` as HostPath,
      cacheDirectory: `${data}/cache` as HostPath,
      onTrouble: (error) => assert.fail(String(error)),
    });
  }

  /** Until `reconnected` is told after the first `told` events. */
  function reconnected(told: number): Promise<unknown> {
    return until('reconnected', async () => events.slice(told).find(({ kind }) => kind === 'reconnected') ?? null);
  }

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

  test('a QEMU that is killed is told, and the server starts again', async () => {
    const { spec, keys, id } = await started();
    const [pid] = await qemuPids(data);
    process.kill(Number(pid), 'SIGKILL');
    assert.deepEqual(await ended(id), { kind: 'ended', serverId: id, why: 'failed' });
    await hypervisor.forgetConsole(id);
    await hypervisor.start(spec, keys);
    await says(id, 'READY\n');
    await type(hypervisor.consoleSocket(id), 'n');
    await says(id, 'READY\na');
  });

  test('shutdown asks the guest; an absent domain is fine', async () => {
    const { id } = await started();
    await says(id, 'READY\n');
    assert.equal(await hypervisor.shutdown(id, WAIT_MS), true);
    assert.equal(await hypervisor.shutdown(id, WAIT_MS), true);
  });

  test('shutdown of a guest that does not listen returns false', async () => {
    const { id } = await started();
    await says(id, 'READY\n');
    await type(hypervisor.consoleSocket(id), 'f');
    await says(id, 'fff');
    assert.equal(await hypervisor.shutdown(id, 300), false);
    await hypervisor.pause(id);
    assert.equal(await hypervisor.shutdown(id, 300), false);
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
    assert.ok((await readFile(file)).includes(bootSector()), 'a plain file holds guest memory in clear');
    await assert.rejects(hypervisor.restore({ ...spec, serverId: newId() }, file, keys), /another server/);
    await hypervisor.restore(spec, file, keys);
    assert.deepEqual(await hypervisor.secrets(), []);
    assert.equal(await hypervisor.state(id), 'paused');
    await hypervisor.restore(spec, file, keys);
    await hypervisor.unpause(id);
    await type(hypervisor.consoleSocket(id), 'n');
    await says(id, 'READY\nab');
  });

  test('save to an unlocked disk and restore: nothing of guest memory lies in clear on the medium', async () => {
    const { spec, keys, id } = await started();
    await says(id, 'READY\n');
    using key = Secret.generate();
    const medium = `${data}/${id}.memory` as HostPath;
    await formatLuks(medium, key, 128 * 1024 * 1024);
    await using unlocked = await exportLuks(medium, key, `${data}/run/unlocked/${id}` as HostPath);
    await hypervisor.save(id, unlocked.path);
    await hypervisor.restore(spec, unlocked.path, keys);
    await hypervisor.unpause(id);
    await type(hypervisor.consoleSocket(id), 'n');
    await says(id, 'READY\na');
    assert.ok(!(await readFile(medium)).includes(bootSector().subarray(0, 64)));
  });

  test('saving is refused when libvirt does not see the unlocked disk', async () => {
    const { id } = await started();
    using key = Secret.generate();
    const medium = `${data}/${id}.memory` as HostPath;
    await formatLuks(medium, key, 128 * 1024 * 1024);
    await using unlocked = await exportLuks(medium, key, `${data}/run/unlocked/${id}` as HostPath);
    const pid = (await readFile(libvirt.libvirtdPidFile, 'utf8')).trim();
    const doing = "Unmounting in libvirt's namespace";
    await run('nsenter', [`--mount=/proc/${pid}/ns/mnt`, 'umount', unlocked.path], { doing });
    await assert.rejects(
      hypervisor.save(id, unlocked.path),
      failsWith('memory-unprotected', /nothing is mounted there/),
    );
    assert.equal(await hypervisor.state(id), 'running');
  });

  test('a save that fails lets the guest run on', async () => {
    const { id } = await started();
    const file = `${data}/no/such/folder` as HostPath;
    await assert.rejects(hypervisor.save(id, file), failsWith('hypervisor-failed', /no\/such\/folder/));
    assert.equal(await hypervisor.state(id), 'running');
  });

  test('restoring from what is no saved memory is refused', async () => {
    const { spec, keys } = await encryptedServer();
    const file = `${data}/rubbish` as HostPath;
    await writeFile(file, Buffer.alloc(8192, 'x'));
    await assert.rejects(hypervisor.restore(spec, file, keys), failsWith('hypervisor-failed', /./));
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

  test('after a start the key is in no process but QEMU', async () => {
    const { spec, keys } = await encryptedServer();
    const needle = keys[0]?.key.use((bytes) => Buffer.from(bytes.subarray(16, 48))) ?? Buffer.alloc(0);
    await hypervisor.start(spec, keys);
    const libvirtd = Number((await readFile(libvirt.libvirtdPidFile, 'utf8')).trim());
    for (const pid of [libvirtd, ...hypervisor.workerPids.calls]) assert.deepEqual(await findInMemory(pid, needle), []);
    assert.notDeepEqual(await findInMemory(process.pid, needle), [], 'what is there is found');
  });

  test('call workers that are killed in the middle of a start leave no secret', async () => {
    const { spec, keys } = await encryptedServer();
    const starting = hypervisor.start(spec, keys);
    await until('a secret is defined', async () => ((await hypervisor.secrets()).length > 0 ? true : null));
    for (const pid of hypervisor.workerPids.calls) process.kill(pid, 'SIGKILL');
    await starting.catch(failsWith('hypervisor-unavailable', /SIGKILL/));
    assert.deepEqual(await hypervisor.secrets(), []);
  });

  test('an event worker that is killed is replaced, which is told', async () => {
    const { id } = await started();
    const told = events.length;
    process.kill(Number(hypervisor.workerPids.events), 'SIGKILL');
    await reconnected(told);
    await hypervisor.destroy(id);
    await ended(id);
  });

  test('a libvirtd that is killed comes back and finds its guests', async () => {
    const { id } = await started();
    await says(id, 'READY\n');
    const told = events.length;
    const pid = (await readFile(libvirt.libvirtdPidFile, 'utf8')).trim();
    process.kill(Number(pid), 'SIGKILL');
    await reconnected(told);
    assert.notEqual((await readFile(libvirt.libvirtdPidFile, 'utf8')).trim(), pid);
    assert.equal((await hypervisor.domains())[0]?.serverId, id);
    await type(hypervisor.consoleSocket(id), 'n');
    await says(id, 'READY\na');
  });
  test('without libvirt every call says so; another start adopts what runs', async () => {
    const { id } = await started();
    await says(id, 'READY\n');
    const told = events.length;
    await libvirt.stop();
    await assert.rejects(hypervisor.state(id), failsWith('hypervisor-unavailable', /libvirt does not answer/));
    libvirt = await startLibvirt();
    await reconnected(told);
    const pid = await readFile(libvirt.libvirtdPidFile, 'utf8');
    await libvirt[Symbol.asyncDispose]();
    libvirt = await startLibvirt();
    assert.equal(await readFile(libvirt.libvirtdPidFile, 'utf8'), pid);
    assert.equal((await hypervisor.domains())[0]?.serverId, id);
    await hypervisor.destroy(id);
    await ended(id);
  });

  test('secrets that a crash left are listed and forgotten', async () => {
    const pool = new LibvirtPool(libvirt.uri);
    await using _ = pool;
    using key = Secret.generate();
    for (const usage of ['nightlatch:a', 'nightlatch:b', 'of-others']) {
      await pool.call('setSecrets', [secretXml(randomUUID(), usage), usage, '64'], { doing: 'Testing', key });
    }
    assert.deepEqual((await hypervisor.secrets()).sort(), ['a', 'b']);
    await hypervisor.forgetSecrets();
    assert.deepEqual(await hypervisor.secrets(), []);
    assert.deepEqual(await pool.call('listSecrets', [''], { doing: 'Testing' }), ['of-others']);
    await pool.call('forgetSecrets', ['of-others'], { doing: 'Testing' });
  });

  test('qcow2, a CD-ROM, a network card and more memory start too; a reset guest boots again', async () => {
    const { spec, keys } = await encryptedServer();
    const id = spec.serverId;
    const more = [`${data}/${id}.qcow2`, `${data}/${id}.iso`] as HostPath[];
    await run('qemu-img', ['create', '-q', '-f', 'qcow2', String(more[0]), '1M'], { doing: 'Making a disk' });
    await writeFile(String(more[1]), Buffer.alloc(65536));
    const disks = [
      ...spec.disks,
      { ...plainDisk(more[0], 'vdb', 'disk'), attachment: { path: more[0] as HostPath, format: 'qcow2' } },
      plainDisk(more[1], 'sda', 'cdrom'),
    ] as const;
    await hypervisor.start({ ...spec, disks, network: 'user', vcpus: 2, memoryMib: 128 }, keys);
    await says(id, 'READY\n');
    await type(hypervisor.consoleSocket(id), 'r');
    await says(id, 'READY\nREADY\n');
  });

  test('a console log is bounded, keeps the newest and can be forgotten', async () => {
    const { id } = await started();
    await says(id, 'READY\n');
    assert.equal((await hypervisor.consoleLog(id, 3)).toString(), 'DY\n');
    await type(hypervisor.consoleSocket(id), 'f');
    const files = async () => {
      const names = await readdir(`${data}/run/console`);
      return Promise.all(
        names.filter((name) => name.startsWith(id)).map((name) => stat(`${data}/run/console/${name}`)),
      );
    };
    await until('the log is full', async () => ((await files()).length > 1 ? true : null));
    const log = await hypervisor.consoleLog(id, 600_000);
    assert.match(log.subarray(-600).toString(), /^f+$/);
    assert.ok(log.length > 500_000);
    await until('the log was full twice', async () => {
      const start = await hypervisor.consoleLog(id, 2 ** 24);
      return start.includes('READY') ? null : true;
    });
    assert.ok((await files()).reduce((sum, { size }) => sum + size, 0) <= 1.1 * 1024 * 1024);
    await hypervisor.destroy(id);
    await hypervisor.forgetConsole(id);
    assert.equal((await hypervisor.consoleLog(id, 1000)).length, 0);
  });
});

test('a QEMU that hangs while libvirt asks it what it can do is ended, and libvirt asks again', {
  timeout: 120_000,
}, async () => {
  const data = await mkdtemp('/tmp/nl-hv-');
  grantPrivilege({ directories: [data] });
  const runDirectory = `${data}/run` as HostPath;
  const trouble: unknown[] = [];
  const libvirt = await PrivateLibvirt.start({
    runDirectory,
    cacheDirectory: `${data}/cache` as HostPath,
    learnTimeoutMs: 10_000,
    onTrouble: (error) => trouble.push(error),
  });
  try {
    const folder = `${runPaths(runDirectory).libvirt}/lib/qemu`;
    const hung = await until('libvirt asks QEMU', async () => {
      const name = (await readdir(folder)).find((entry) => entry.startsWith('qmp-'));
      return Number(await readFile(`${folder}/${name}/qmp.pid`, 'utf8').catch(() => '')) || null;
    });
    process.kill(hung, 'SIGSTOP');
    const virsh = ['--quiet', '--connect', libvirt.uri, 'domcapabilities', '--virttype', 'qemu'];
    const answered = () => run('virsh', virsh, { doing: 'Asking', timeoutMs: 60_000, tolerate: [1] });
    // Who asks while it hangs is told that it failed; the next one has the answer.
    await answered();
    assert.match(
      (await run('virsh', virsh, { doing: 'Asking again', timeoutMs: 60_000 })).stdout,
      /<domainCapabilities>/,
    );
    assert.throws(() => process.kill(hung, 0), /ESRCH/);
    assert.deepEqual(trouble, []);
  } finally {
    await libvirt.stop();
    await releaseRunDirectory(runDirectory);
    await rm(data, { recursive: true });
  }
});

function plainDisk(path: HostPath | undefined, target: string, device: 'disk' | 'cdrom'): DomainDisk {
  const attachment = { path: path ?? ('' as HostPath), format: 'raw' } as const;
  return { attachment, target, device, serial: target, encryption: null };
}

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
