import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { after, before, test } from 'node:test';
import { command } from '#test/support/command.ts';
import { asNightlatch, makeAccount } from '#test/support/own-account.ts';
import { asItsUnit, type RootHelper, startRootHelper } from '#test/support/root-helper.ts';
import { cryptMappings, diskKeysInKeyrings, volumeGroup } from '#test/support/volume-group.ts';
import { VolumeLab } from '#test/support/volume-lab.ts';
import { findVolumeStrays } from '#test/support/volume-strays.ts';
import { waitUntil } from '#test/support/wait.ts';

/*
 * The whole service as an account of its own: guests by the libvirt of the machine, which runs them as an account of
 * their own too, as Debian has it; root for nothing but the helper. Each test finds the server active and leaves it so,
 * but the last.
 */

/** libvirtd and virtlogd as Debian's package libvirt-daemon-system sets them up, but that no systemd starts them. */
class MachineLibvirt implements AsyncDisposable {
  readonly #daemons: readonly ChildProcess[];

  private constructor(daemons: readonly ChildProcess[]) {
    this.#daemons = daemons;
  }

  static async start(): Promise<MachineLibvirt> {
    command('useradd', ['--system', '--gid', 'libvirt-qemu', '--groups', 'kvm', 'libvirt-qemu'], { tolerate: [9] });
    mkdirSync('/etc/libvirt', { recursive: true });
    // Debian lets the group libvirt in by polkit, which is not there.
    const access =
      'auth_unix_ro = "none"\nauth_unix_rw = "none"\nunix_sock_group = "libvirt"\nunix_sock_rw_perms = "0770"\n';
    writeFileSync('/etc/libvirt/libvirtd.conf', `${access}host_uuid = "${crypto.randomUUID()}"\n`);
    writeFileSync('/etc/libvirt/virtlogd.conf', '');
    // As it comes, but for what this kernel lacks: control groups, and a /dev that libvirt could copy for each guest.
    writeFileSync('/etc/libvirt/qemu.conf', 'cgroup_controllers = []\nnamespaces = []\n');
    const start = (...words: string[]) => spawn('tini', ['-s', '--', ...words], { stdio: 'ignore' });
    const daemons = [start('virtlogd', '-p', '/run/virtlogd.pid'), start('libvirtd', '-p', '/run/libvirtd.pid')];
    const answers = async () => command('virsh', ['-c', 'qemu:///system', 'list'], { tolerate: [1] }).includes('State');
    await waitUntil('libvirt answers', answers, 120_000);
    return new MachineLibvirt(daemons);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const daemon of this.#daemons) {
      daemon.kill();
      await once(daemon, 'exit');
    }
  }
}

let helper: RootHelper;
let libvirt: MachineLibvirt;
let lab: VolumeLab;
let id: string;

before(async () => {
  makeAccount(volumeGroup);
  libvirt = await MachineLibvirt.start();
  helper = await startRootHelper({ volumeGroup, activated: true, wrapper: asItsUnit() });
  command('chgrp', ['nightlatch', helper.socket]);
  command('chmod', ['711', dirname(helper.socket)]);
  lab = await VolumeLab.open({
    wrapper: asNightlatch,
    more: `connection_uri = "qemu:///system"\n[privilege]\nhelper = "${helper.socket}"\n`,
    prepare: async (state) => {
      // As nightlatch.tmpfiles and var-lib-nightlatch-run.mount.
      const owned = ['--owner', 'nightlatch', '--group', 'nightlatch', '--directory'];
      command('install', [...owned, '--mode', '0711', state, `${state}/run`]);
      const options = 'mode=0700,uid=nightlatch,gid=nightlatch,nodev,nosuid,noexec';
      command('mount', ['-t', 'tmpfs', '-o', options, 'nightlatch', `${state}/run`]);
    },
  });
});
after(async () => {
  // A failed test may leave one; the service's own end does not find guests of another libvirt than its own.
  for (const pid of guests()) process.kill(Number(pid), 'SIGKILL');
  await lab?.[Symbol.asyncDispose]();
  await helper?.[Symbol.asyncDispose]();
  await libvirt?.[Symbol.asyncDispose]();
});

function statusOf(pid: number | string | undefined): string {
  return readFileSync(`/proc/${pid}/status`, 'utf8');
}

const guests = () =>
  command('pgrep', ['-x', 'qemu-system-x86'], { tolerate: [1] })
    .split('\n')
    .filter(Boolean);

async function expectTidy(): Promise<void> {
  const { db } = lab.lab;
  const disks = await db.selectFrom('disks').selectAll().where('state', '=', 'formatted').execute();
  const leases = await db.selectFrom('leases').selectAll().where('closed_at', 'is', null).execute();
  assert.deepEqual(await findVolumeStrays(disks, leases), []);
  await lab.expectCiphertext(id);
}

async function expectOpen(): Promise<void> {
  assert.equal((await cryptMappings()).filter(({ name }) => name.startsWith(`nl-${id}-`)).length, 4);
  await expectTidy();
}

async function expectLocked(): Promise<void> {
  assert.deepEqual([await cryptMappings(), await diskKeysInKeyrings(), guests()], [[], [], []]);
  await expectTidy();
}

test('a server is created, and neither the service nor its guest has root', async () => {
  id = await lab.create('luksv2');
  await lab.expectBooted(id);
  await expectOpen();
  const [qemu = '', ...more] = guests();
  assert.deepEqual(more, []);
  for (const pid of [lab.lab.service.pid, qemu]) {
    assert.match(statusOf(pid), /^CapEff:\t0+$/m);
    assert.doesNotMatch(statusOf(pid), /^Uid:.*\t0\b/m);
  }
  assert.match(await lab.lab.cloud.consoleLog(id), /READY/);
});

test('stopped, all is locked; started, it is open', async () => {
  await lab.act(id, { 'os-stop': null }, 'SHUTOFF');
  await expectLocked();
  await lab.act(id, { 'os-start': null }, 'ACTIVE');
  await lab.expectBooted(id);
  await expectOpen();
});

test('suspended, all is locked; resumed, it goes on', async () => {
  const letter = await lab.expectBooted(id);
  await lab.act(id, { suspend: null }, 'SUSPENDED');
  await expectLocked();
  await lab.act(id, { resume: null }, 'ACTIVE');
  await lab.expectLetter(id, letter);
  await expectOpen();
});

test('a service that was killed finds its guest again, paused as it was', async () => {
  const letter = await lab.expectBooted(id);
  await lab.act(id, { pause: null }, 'PAUSED');
  await lab.restartService();
  await lab.act(id, { unpause: null }, 'ACTIVE');
  await lab.expectLetter(id, letter);
  await expectOpen();
});

test('whose QEMU is killed, it is locked', async () => {
  for (const pid of guests()) process.kill(Number(pid), 'SIGKILL');
  await lab.reach(id, 'SHUTOFF');
  await expectLocked();
  await lab.act(id, { 'os-start': null }, 'ACTIVE');
  await lab.expectBooted(id);
});

test('stopped and deleted, its volumes are gone', async () => {
  await lab.act(id, { 'os-stop': null }, 'SHUTOFF');
  await lab.lab.delete(id);
  await expectLocked();
  assert.deepEqual(await lab.volumeNames(id), []);
});
