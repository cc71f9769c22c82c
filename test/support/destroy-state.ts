import { readdir, readFile, readlink, stat } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import type { HostPath } from '#core/ids.ts';
import { parseMountInfo } from '#host/mount-info.ts';
import { command } from '#test/support/command.ts';

const PATIENCE_MS = 10_000;

/** Ends every process that works below a data directory of a test, guests included, and unmounts all below it. */
export async function destroyState(directory: string): Promise<void> {
  const deadline = Date.now() + PATIENCE_MS;
  for (;;) {
    const pids = await processesOf(directory);
    if (pids.length === 0) break;
    for (const pid of pids) kill(pid);
    if (Date.now() > deadline) throw new Error(`processes ${pids.join(', ')} below ${directory} cannot be ended`);
    await sleep(50);
  }
  for (const path of await mountsBelow(directory)) {
    command('umount', ['-l', path], { tolerate: [32] });
  }
}

/**
 * Processes whose command line or working directory names the directory, and guests of the libvirt in it, whose disks may
 * lie elsewhere; ourselves not among them.
 */
export async function processesOf(directory: string): Promise<number[]> {
  const pids = (await readdir('/proc')).filter((name) => /^\d+$/.test(name)).map(Number);
  const found = await Promise.all(
    pids.map(async (pid) => {
      const [commandLine, cwd] = await Promise.all([
        readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => ''),
        readlink(`/proc/${pid}/cwd`).catch(() => ''),
      ]);
      if (pid === process.pid) return false;
      if (commandLine.includes(directory) || cwd.startsWith(directory)) return true;
      return /^\S*qemu-system/.test(commandLine) && (await isUnderLibvirtOf(pid, directory));
    }),
  );
  return pids.filter((_, i) => found[i]);
}

/** Whether a process has the libvirt of this state directory for its own, whatever its command line says. */
async function isUnderLibvirtOf(pid: number, directory: string): Promise<boolean> {
  const [own, its] = await Promise.all(
    [`${directory}/run/lv/run`, `/proc/${pid}/root/run/libvirt`].map((path) => stat(path).catch(() => null)),
  );
  return Boolean(own && its && own.dev === its.dev && own.ino === its.ino);
}

/** QEMU processes that run a guest of the service with this data directory. */
export async function guestsOf(directory: string): Promise<number[]> {
  const pids = await processesOf(directory);
  const names = await Promise.all(pids.map((pid) => readFile(`/proc/${pid}/comm`, 'utf8').catch(() => '')));
  return pids.filter((_, i) => names[i]?.startsWith('qemu-system'));
}

async function mountsBelow(directory: string): Promise<HostPath[]> {
  const mounts = parseMountInfo(await readFile('/proc/self/mountinfo', 'utf8'));
  return mounts
    .filter(({ path }) => path.startsWith(`${directory}/`))
    .map(({ path }) => path as HostPath)
    .reverse();
}

function kill(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
  }
}
