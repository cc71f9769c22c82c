import { access, constants, readFile, statfs } from 'node:fs/promises';
import type { HostPath } from '#core/ids.ts';
import { GIB } from '#core/sizes.ts';
import { examineCeph } from '#host/doctor-ceph.ts';
import { examineLvm, type LvmSubject } from '#host/doctor-lvm.ts';
import { hasProgram, type Program, packageOf } from '#host/exec.ts';
import { parseMountInfo } from '#host/mount-info.ts';
import type { Pool } from '#host/storage/rbd/images.ts';

/** One thing a host needs, and whether it has it. `warn`: it works, with less than it promises. */
export type Finding = { readonly check: string; readonly verdict: 'ok' | 'warn' | 'fail'; readonly detail: string };

export type DoctorSubject = {
  readonly stateDirectory: HostPath;
  /** The private libvirt is used; else the one on the machine, whose state directory is libvirt's own. */
  readonly privateLibvirt: boolean;
  /** The socket of the root helper; null: there is none. */
  readonly rootHelper: HostPath | null;
  /** Null: no disks are logical volumes. */
  readonly lvm: LvmSubject | null;
  /** Those in which disks are images. */
  readonly pools: readonly Pool[];
};

const PROGRAMS: readonly Program[] = [
  'cryptsetup',
  'qemu-img',
  'qemu-storage-daemon',
  'qemu-system-x86_64',
  'libvirtd',
  'virtlogd',
  'mkfs.ext4',
  'mkswap',
  'xorrisofs',
  'setpriv',
  'unshare',
  'tini',
];
/** Where a libvirt of the machine keeps `master-key.aes` and the save files of its own. */
const LIBVIRT_STATE = '/var/lib/libvirt/qemu';
const LITTLE_ROOM_BYTES = 2 * GIB;

/** Looks at this host; it is afterwards as it was. */
export async function examineHost(subject: DoctorSubject): Promise<Finding[]> {
  return [
    await rootFinding(subject),
    ...(await Promise.all(PROGRAMS.map(programFinding))),
    await fuseFinding(),
    await kvmFinding(),
    await swapFinding(),
    await libvirtStateFinding(subject),
    await roomFinding(subject.stateDirectory),
    await coreDumpFinding(),
    ...(subject.lvm === null ? [] : await examineLvm(subject.lvm)),
    ...(subject.pools.length === 0 ? [] : await examineCeph(subject.pools)),
  ];
}

async function rootFinding({ rootHelper }: DoctorSubject): Promise<Finding> {
  if (process.getuid?.() === 0) return ok('root', 'running as root');
  if (rootHelper === null) return failed('root', 'not running as root: run it with sudo, or set [privilege] helper');
  if (await usable(rootHelper)) return ok('root', `not running as root; ${rootHelper} does what needs it`);
  return failed('root', `${rootHelper} cannot be written to: start nightlatch-helper.socket, as a member of its group`);
}

async function programFinding(program: Program): Promise<Finding> {
  const check = `program ${program}`;
  if (await hasProgram(program)) return ok(check, 'installed');
  return failed(check, `missing: apt-get install ${packageOf(program)}`);
}

async function fuseFinding(): Promise<Finding> {
  if (await usable('/dev/fuse')) return ok('FUSE', '/dev/fuse can be opened');
  return failed('FUSE', '/dev/fuse cannot be opened: saved memory cannot be encrypted. Load the module fuse.');
}

async function kvmFinding(): Promise<Finding> {
  if (await usable('/dev/kvm')) return ok('KVM', '/dev/kvm can be opened; whether guests run is tried at start');
  return warned('KVM', '/dev/kvm cannot be opened: guests are emulated, which is slow');
}

/** Swap on plain storage may hold any page of QEMU, keys among them. */
async function swapFinding(): Promise<Finding> {
  const swaps = (await text('/proc/swaps'))
    .trim()
    .split('\n')
    .slice(1)
    .map((line) => line.split(/\s+/)[0] ?? '');
  const plain = swaps.filter((path) => !path.startsWith('/dev/dm-') && !path.startsWith('/dev/zram'));
  if (plain.length === 0) return ok('swap', swaps.length === 0 ? 'none' : 'only on dm or zram devices');
  return warned('swap', `memory may be written to ${plain.join(', ')} in clear: encrypt it or turn it off`);
}

/** A running guest's `master-key.aes` and QEMU's command line together give away its passphrases. */
async function libvirtStateFinding({ privateLibvirt, stateDirectory }: DoctorSubject): Promise<Finding> {
  const check = 'libvirt state in memory';
  if (privateLibvirt) return ok(check, `kept under ${stateDirectory}/run, a memory file system`);
  const type = await fileSystemOf(LIBVIRT_STATE);
  if (type === 'tmpfs') return ok(check, `${LIBVIRT_STATE} is a tmpfs`);
  return warned(
    check,
    `${LIBVIRT_STATE} is on ${type}: mount a tmpfs there, because libvirt keeps its master keys in it`,
  );
}

async function roomFinding(directory: HostPath): Promise<Finding> {
  const where = await nearestExisting(directory);
  const { bavail, bsize } = await statfs(where);
  const free = bavail * bsize;
  const detail = `${(free / GIB).toFixed(1)} GiB free at ${where}`;
  return free < LITTLE_ROOM_BYTES
    ? warned('room', `${detail}: guests will soon be unable to write`)
    : ok('room', detail);
}

/** A core file of QEMU would hold volume keys. */
async function coreDumpFinding(): Promise<Finding> {
  const limits = await text('/proc/self/limits');
  const soft = /^Max core file size\s+(\S+)/m.exec(limits)?.[1];
  if (soft === '0') return ok('core files', 'off for this process and what it starts');
  return warned(
    'core files',
    'not limited for this shell: start the service with `ulimit -c 0`; guests’ own are off by max_core',
  );
}

async function fileSystemOf(path: string): Promise<string> {
  const mounts = parseMountInfo(await text('/proc/self/mountinfo'));
  const above = mounts.filter((mount) => `${path}/`.startsWith(mount.path === '/' ? '/' : `${mount.path}/`));
  return above.sort((a, b) => a.path.length - b.path.length).at(-1)?.type ?? 'an unknown file system';
}

async function nearestExisting(path: string): Promise<string> {
  for (let at = path; at !== '/'; at = at.slice(0, at.lastIndexOf('/')) || '/') {
    if (
      await access(at).then(
        () => true,
        () => false,
      )
    )
      return at;
  }
  return '/';
}

async function usable(path: string): Promise<boolean> {
  return access(path, constants.R_OK | constants.W_OK).then(
    () => true,
    () => false,
  );
}

async function text(path: string): Promise<string> {
  return readFile(path, 'utf8').catch(() => '');
}

function ok(check: string, detail: string): Finding {
  return { check, verdict: 'ok', detail };
}

function warned(check: string, detail: string): Finding {
  return { check, verdict: 'warn', detail };
}

function failed(check: string, detail: string): Finding {
  return { check, verdict: 'fail', detail };
}
