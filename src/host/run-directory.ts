import { mkdir, readFile } from 'node:fs/promises';
import { dirname } from 'node:path';
import { NightlatchError } from '#core/errors.ts';
import type { HostPath } from '#core/ids.ts';
import { run } from '#host/exec.ts';
import { helperFor } from '#host/grant.ts';
import { type Mount, mountAt, parseMountInfo } from '#host/mount-info.ts';

/** The folders of a run directory, each with one owner. */
export type RunPaths = {
  /** Disks that are unlocked now; one FUSE mount each. */
  readonly unlocked: HostPath;
  /** Console logs of guests. */
  readonly consoles: HostPath;
  /** UNIX sockets of serial consoles. The name is short because a socket's whole path is. */
  readonly tty: HostPath;
  /** State, sockets and configuration of the private libvirt. */
  readonly libvirt: HostPath;
};

/** Where things lie in a run directory. Pure. */
export function runPaths(directory: HostPath): RunPaths {
  const at = (name: string) => `${directory}/${name}` as HostPath;
  return { unlocked: at('unlocked'), consoles: at('console'), tty: at('tty'), libvirt: at('lv') };
}

/** The longest path a UNIX socket can have (`sun_path` less its final zero byte, see unix(7)). */
const SOCKET_PATH_LIMIT = 107;
/** The longest socket path below the run directory: `/tty/` and a server's id. */
const LONGEST_SOCKET = '/tty/'.length + 36;

/** Folders that libvirt's mount namespace covers with its own; what lies below them is not what we see. */
const COVERED = [
  '/etc/libvirt',
  '/run/libvirt',
  '/var/run/libvirt',
  '/var/lib/libvirt',
  '/var/cache/libvirt',
  '/var/log/libvirt',
];

/**
 * Makes `directory` a memory file system of ours, with the folders of `runPaths` in it.
 *
 * What lies in it never touches a disk: libvirt's state with the keys of its keys, sockets, console logs. The mount is
 * shared, so that a file system mounted below it later appears in libvirt's mount namespace too.
 *
 * A process that is not root cannot mount: it takes a memory file system of its own that systemd has mounted there.
 *
 * *Repeat*: adopts the mount that is there. *Throws* run-directory-unfit when it cannot be made safe; root-helper-required.
 */
export async function prepareRunDirectory(directory: HostPath): Promise<RunPaths> {
  checkPath(directory);
  await mkdir(directory, { recursive: true, mode: 0o700 });
  const present = await mounted(directory);
  if (present !== null && present.type !== 'tmpfs')
    throw unfit(directory, `a ${present.type} file system is mounted there already`);
  if (process.geteuid?.() === 0) await mountShared(directory, present);
  else requireMount(directory, present);
  const paths = runPaths(directory);
  for (const path of Object.values(paths)) await mkdir(path, { recursive: true, mode: 0o700 });
  return paths;
}

async function mountShared(directory: HostPath, present: Mount | null): Promise<void> {
  if (present === null) await mountTmpfs(directory);
  await run('mount', ['--make-shared', directory], { doing: `Sharing the mount ${directory}` });
}

function requireMount(directory: HostPath, present: Mount | null): void {
  helperFor(`Mounting memory at ${directory}`);
  if (present === null) throw unfit(directory, 'no memory is mounted there yet; start var-lib-nightlatch-run.mount');
}

/** Unmounts a run directory; all that was in it is gone. *Repeat*: one that is not mounted is fine. */
export async function releaseRunDirectory(directory: HostPath): Promise<void> {
  if ((await mounted(directory)) === null) return;
  await run('umount', [directory], { doing: `Unmounting the run directory ${directory}` });
}

/** @throws root-required unless this process may mount file systems and start guests. */
export function checkRoot(doing: string): void {
  if (process.getuid?.() !== 0) throw new NightlatchError('root-required', { doing });
}

async function mounted(directory: HostPath): Promise<Mount | null> {
  return mountAt(parseMountInfo(await readFile('/proc/self/mountinfo', 'utf8')), directory);
}

/** Prefers a mount that is never swapped out; kernels before 6.4 do not know that and refuse with exit code 32. */
async function mountTmpfs(directory: HostPath): Promise<void> {
  const mount = (extra: string, tolerate: readonly number[]) =>
    run('mount', ['-t', 'tmpfs', '-o', `mode=0700,nodev,nosuid,noexec${extra}`, 'nightlatch', directory], {
      doing: `Mounting memory at ${directory}`,
      tolerate,
    });
  const { code } = await mount(',noswap', [32]);
  if (code !== 0) await mount('', []);
}

function checkPath(directory: HostPath): void {
  if (dirname(directory) === directory || !directory.startsWith('/') || directory.includes('/../')) {
    throw unfit(directory, 'it is not an absolute path of a folder');
  }
  const covered = COVERED.find((folder) => `${directory}/`.startsWith(`${folder}/`));
  if (covered) throw unfit(directory, `${covered} looks different to the private libvirt`);
  const length = Buffer.byteLength(directory) + LONGEST_SOCKET;
  if (length > SOCKET_PATH_LIMIT) {
    throw unfit(
      directory,
      `its sockets would have paths of ${length} bytes and a UNIX socket can have ${SOCKET_PATH_LIMIT}`,
    );
  }
}

function unfit(directory: HostPath, reason: string): NightlatchError {
  return new NightlatchError('run-directory-unfit', { path: directory, reason });
}
