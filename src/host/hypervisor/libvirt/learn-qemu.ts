import { readdir, readFile } from 'node:fs/promises';
import { NightlatchError } from '#core/errors.ts';
import type { HostPath } from '#core/ids.ts';
import { run } from '#host/exec.ts';
import { ignoring } from '#host/files.ts';
import { readCommandLine, signalProcess } from '#host/processes.ts';

/** Exit code of a program that was ended, because its time was over or nobody waits any more. */
const ENDED = 128;
const ATTEMPTS = 3;

/**
 * Makes libvirt learn what QEMU can do, before a guest's start waits for it: once for each build of both, then from its cache.
 *
 * The QEMU that libvirt asks for that may stand in accept(2) for ever (7.2, seen rarely, on a busy machine),
 * and every start of a guest with it, since libvirt waits without a limit. Such a QEMU is ended, and libvirt asked again.
 * `libraryFolder`: what that libvirt has as /var/lib/libvirt. It returns early when `signal` aborts. *Throws* hypervisor-unavailable.
 */
export async function learnAboutQemu(
  uri: string,
  libraryFolder: HostPath,
  { timeoutMs, signal }: { readonly timeoutMs: number; readonly signal: AbortSignal },
): Promise<void> {
  const doing = 'Asking libvirt what QEMU can do';
  const args = ['--quiet', '--connect', uri, 'domcapabilities', '--virttype', 'qemu'];
  for (let attempt = 1; attempt <= ATTEMPTS; attempt++) {
    const { code } = await run('virsh', args, { doing, timeoutMs, signal, tolerate: [ENDED] });
    if (code !== ENDED || signal.aborted) return;
    await endProbes(libraryFolder);
  }
  const reason = `QEMU has hung ${ATTEMPTS} times`;
  throw new NightlatchError('hypervisor-unavailable', { doing, reason });
}

/** Each QEMU that is only asked what it can do has its monitor and its pid file in a folder `qmp-<random>`. */
async function endProbes(libraryFolder: HostPath): Promise<void> {
  const names = (await readdir(`${libraryFolder}/qemu`)).filter((name) => name.startsWith('qmp-'));
  for (const name of names) {
    const text = await readFile(`${libraryFolder}/qemu/${name}/qmp.pid`, 'utf8').catch(ignoring('ENOENT'));
    const pid = Number(text);
    if (pid > 1 && (await readCommandLine(pid)).includes(`/${name}/`)) signalProcess(pid, 'SIGKILL');
  }
}
