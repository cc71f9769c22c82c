import assert from 'node:assert/strict';
import { createReadStream } from 'node:fs';
import { appendFile, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { after, before, test } from 'node:test';
import pino from 'pino';
import { parseConfig } from '#config/load.ts';
import type { DiskSpec } from '#core/disk.ts';
import type { EncryptionFormat } from '#core/encryption-intent.ts';
import { type DiskId, newId, type SecretId, type ServerId } from '#core/ids.ts';
import { Secret } from '#core/secret.ts';
import { GIB, MIB } from '#core/sizes.ts';
import type { DiskKeys, ServerSpec } from '#host/host-agent.ts';
import { type LocalHost, openLocalHost } from '#main/local-host.ts';
import { statePaths } from '#main/state-paths.ts';
import { tell } from '#test/support/disk-lab.ts';
import { nightlatch } from '#test/support/nightlatch-command.ts';

/** A whole host on logical volumes, with a real libvirt and real guests, as the control plane would drive it. */
const GROUP = process.env.NIGHTLATCH_TEST_VOLUME_GROUP ?? '';
let host: LocalHost;
let directory: string;

const open = () => {
  const text = `[DEFAULT]\nstate_path = "${directory}"\n[libvirt]\nimages_type = "lvm"\nimages_volume_group = "${GROUP}"\nvirt_type = "qemu"\n`;
  return openLocalHost(parseConfig(text, 'test'), statePaths(directory), pino({ level: 'silent' }));
};

before(async () => {
  directory = await mkdtemp('/var/tmp/nl-');
  host = await open();
});
after(async () => {
  await host[Symbol.asyncDispose]();
  await rm(directory, { recursive: true, force: true });
});

type Case = { readonly server: ServerSpec; readonly disks: DiskSpec[]; readonly keys: DiskKeys };

function someServer(format: EncryptionFormat): Case {
  const id = newId<ServerId>();
  const disk = (role: DiskSpec['role'], sizeBytes: number): DiskSpec => {
    return {
      id: newId<DiskId>(),
      ownerId: id,
      backend: null,
      role,
      ordinal: 0,
      generation: 0,
      sizeBytes,
      storage: 'lvm',
      encryption: format,
      secretId: newId<SecretId>(),
    };
  };
  const disks = [disk('root', 16 * MIB), disk('ephemeral', 16 * MIB)];
  const keys = new Map(disks.map((each) => [each.id, Secret.generate()]));
  const size = { vcpus: 1, memoryMib: 64, network: 'none', targets: ['vda', 'vdb'], volumes: [] } as const;
  return { server: { id, name: 'instance-00000001', displayName: 'one', projectId: 'p', disks, ...size }, disks, keys };
}

const crypt = () =>
  tell('dmsetup', 'table', '--showkeys')
    .text.split('\n')
    .filter((line) => / crypt /.test(line));
const keyring = () => readFile('/proc/keys', 'utf8');

/** Whether a device holds some text; it is larger than the memory here. */
async function streamHolds(path: string, needle: string): Promise<boolean> {
  let before = '';
  for await (const chunk of createReadStream(path, { highWaterMark: MIB })) {
    const text = before + (chunk as Buffer).toString('latin1');
    if (text.includes(needle)) return true;
    before = text.slice(-needle.length);
  }
  return false;
}

/** While `work` runs, nothing more fits into the volume group. */
async function withoutRoom<T>(work: () => Promise<T>): Promise<T> {
  assert.equal(tell('lvcreate', '-y', '-Wn', '-Zn', '-l', '100%FREE', '-n', 'full', GROUP).status, 0);
  try {
    return await work();
  } finally {
    assert.equal(tell('lvremove', '-f', `${GROUP}/full`).status, 0);
  }
}

async function assertLocked(): Promise<void> {
  assert.deepEqual(crypt(), []);
  assert.doesNotMatch(await keyring(), /cryptsetup/);
  assert.deepEqual((await host.agent.inventory()).unlockedDisks, []);
}

async function create({ disks, keys }: Case): Promise<void> {
  for (const disk of disks) {
    await host.agent.createDisk(disk, { kind: 'filesystem', label: 'x' }, keys);
  }
  await assertLocked();
}

test('a format that does not work here is no trait, with the reason', async () => {
  const { traits, problems } = await withoutRoom(() => host.agent.describe());
  assert.deepEqual(traits, []);
  for (const format of ['luks', 'luksv2', 'plain']) {
    assert.match(problems.join(), new RegExp(`${format} does not work here: .*no space left on volume group ${GROUP}`));
  }
});

test('a host on logical volumes says what it can do', async () => {
  const facts = await host.agent.describe();
  assert.deepEqual(facts.problems, []);
  for (const format of ['', '_LUKS', '_LUKSV2', '_PLAIN']) {
    assert.ok(facts.traits.includes(`COMPUTE_EPHEMERAL_ENCRYPTION${format}`), `${facts.traits}`);
  }
  assert.ok(facts.diskGib > 150 && facts.diskGib <= (201 * GIB) / GIB);
});

test('what worked is not tried again until the kernel, a program or the configuration is another', async () => {
  const file = `${directory}/run/tried-formats.servers`;
  const noted = await readFile(file, 'utf8');
  const again = await withoutRoom(() => host.agent.describe());
  assert.deepEqual([again.traits.length, again.problems], [4, []]);
  await writeFile(file, noted.replace(/(?<="circumstances":")../, '--'));
  assert.deepEqual((await withoutRoom(() => host.agent.describe())).traits, []);
  await writeFile(file, noted);
});

for (const format of ['plain', 'luksv2'] as const) {
  test(`a server with ${format} disks: open while it runs, locked whenever it does not`, async () => {
    const one = someServer(format);
    const { server, disks, keys } = one;
    const { agent } = host;
    await create(one);

    await agent.startServer(server, keys);
    assert.equal(crypt().length, disks.length, 'started');
    await agent.lockStrays();
    assert.equal(crypt().length, disks.length, 'a restart of the agent leaves a running guest its disks');
    await agent.stopServer(server.id, disks, 0);
    await assertLocked();

    await agent.startServer(server, keys);
    const [pid = ''] = tell('pgrep', '-f', `qemu-system.*${server.id}`).text.split('\n');
    process.kill(Number(pid), 'SIGKILL');
    while ((await agent.inventory()).servers.length > 0);
    await agent.lockStrays();
    await assertLocked();

    for (const disk of disks) await agent.destroyDisk(disk);
    assert.equal(tell('lvs', '--noheadings', '--select', `lv_name=~"${server.id}"`, GROUP).text.trim(), '');
  });
}

test('a server with LUKS2 disks is suspended and comes back; its memory is ciphertext', async () => {
  const one = someServer('luksv2');
  const { server, disks, keys } = one;
  const { agent } = host;
  await create(one);
  const memory: DiskSpec = { ...(disks[0] as DiskSpec), id: newId(), role: 'memory', sizeBytes: 320 * MIB };
  using memoryKey = Secret.generate();
  await agent.createDisk(memory, { kind: 'blank' }, new Map([[memory.id, memoryKey]]));
  await agent.startServer(server, keys);
  await agent.suspendServer(server.id, memory, memoryKey);
  await agent.stopServer(server.id, [...disks, memory], 0);
  await assertLocked();
  const volume = `/dev/${GROUP}/${server.id}_memory`;
  assert.equal(await streamHolds(volume, 'LibvirtQemudSave'), false);

  await agent.restoreServer(server, memory, new Map([...keys, [memory.id, memoryKey]]));
  await agent.unpauseServer(server.id);
  assert.equal((await agent.inventory()).servers[0]?.state, 'running');
  assert.ok(!tell('dmsetup', 'ls').text.includes(memory.id), 'the memory is locked while the guest runs');
  await agent.stopServer(server.id, [...disks, memory], 0);
  await assertLocked();
  for (const disk of [...disks, memory]) await agent.destroyDisk(disk);
});

test('a start that fails leaves everything locked', async () => {
  const one = someServer('luksv2');
  const { server, disks, keys } = one;
  await create(one);
  const wrong = new Map([...keys, [disks[1]?.id ?? newId<DiskId>(), Secret.generate()]]);
  await assert.rejects(host.agent.startServer(server, wrong), /does not open it/);
  await assertLocked();
  await assert.rejects(host.agent.startServer({ ...server, memoryMib: 64 * 1024 }, keys), /libvirt says/);
  await assertLocked();
});

test('the panic button: guests with every kind of disk end at once, and nothing new is unlocked until it is lifted', async () => {
  const { agent } = host;
  const cases = (['plain', 'luksv2'] as const).map(someServer);
  for (const one of cases) await create(one);
  const [first, second] = cases;
  if (!first || !second) throw new Error('two servers');
  await agent.startServer(first.server, first.keys);
  await agent.startServer({ ...second.server, name: 'instance-00000002' }, second.keys);
  await agent.pauseServer(second.server.id, []);
  assert.equal(crypt().length, 4);
  await agent.lockDown();
  await assertLocked();
  assert.deepEqual((await agent.inventory()).servers, []);
  assert.equal(tell('pgrep', '-f', `qemu-system.*(${first.server.id}|${second.server.id})`).text, '');
  await agent.lockDown();
  await assert.rejects(agent.startServer(first.server, first.keys), /is being locked/);
  await assertLocked();
  // Also over a restart of the service.
  await host[Symbol.asyncDispose]();
  host = await open();
  await assert.rejects(
    host.agent.createDisk(first.disks[0] as DiskSpec, { kind: 'blank' }, first.keys),
    /is being locked/,
  );
  await host.agent.liftLockDown();
  await host.agent.startServer(first.server, first.keys);
  assert.equal(crypt().length, 2);
  await host.agent.stopServer(first.server.id, first.disks, 0);
  await assertLocked();
  for (const disk of cases.flatMap(({ disks }) => disks)) await host.agent.destroyDisk(disk);
});

test('the doctor looks at what logical volumes need', async () => {
  const look = async (libvirt: string) => {
    const file = `${directory}/doctor.toml`;
    await writeFile(file, `[DEFAULT]\nstate_path = "${directory}"\n[libvirt]\nimages_type = "lvm"\n${libvirt}\n`);
    const { stdout } = await nightlatch('doctor', '-f', 'json', '--config', file);
    const rows: { check: string; verdict: string; detail: string }[] = JSON.parse(stdout);
    return (check: string) => rows.find((row) => row.check === check);
  };
  const good = await look(`images_volume_group = "${GROUP}"`);
  for (const check of [
    'program lvcreate',
    'program dmsetup',
    'volume group',
    'udev',
    'cipher aes-xts-plain64, 512 bits',
  ]) {
    assert.equal(good(check)?.verdict, 'ok', check);
  }
  assert.equal(good('thin pool'), undefined);
  assert.equal(good('LVM filter')?.verdict, 'warn');
  await appendFile('/etc/lvm/lvm.conf', '\ndevices/global_filter = [ "r|^/dev/mapper/nl-|" ]\n');
  assert.equal((await look(`images_volume_group = "${GROUP}"`))('LVM filter')?.verdict, 'ok');
  const bad = await look('images_volume_group = "no-such-group"\nimages_thin_pool = "none"');
  for (const check of ['volume group', 'thin pool']) assert.equal(bad(check)?.verdict, 'fail', check);
  assert.doesNotMatch(tell('dmsetup', 'ls').text, /probe/);
});
