import { constants } from 'node:fs';
import { access, readFile, writeFile } from 'node:fs/promises';
import { release } from 'node:os';
import type { HostPath } from '#core/ids.ts';
import { run } from '#host/exec.ts';

/** What runs guests here, and why, in words for an operator. */
export type VirtType = { readonly virtType: 'kvm' | 'qemu'; readonly reason: string };

export type ProbeOptions = {
  /** Prepared by `prepareRunDirectory`. The verdict is kept there until the host restarts. */
  readonly runDirectory: HostPath;
  /** A Linux kernel to boot under KVM. Without one, the kernel this host itself booted from. */
  readonly kernel?: HostPath;
};

const KVM_DEVICE = '/dev/kvm';
const PROBE_TIMEOUT_MS = 10_000;
/** How far a kernel without a root file system comes: past processors, memory, timers and interrupts. */
const BOOTED = 'Unable to mount root fs';

/**
 * Chooses between the processor (`kvm`) and emulation (`qemu`). `auto` takes `kvm` only after a Linux kernel booted
 * under it: there are hosts whose `/dev/kvm` opens, and runs a boot sector, but hangs every stock kernel. With no kernel
 * to try, `auto` is `qemu`.
 *
 * @throws program-missing.
 */
export async function chooseVirtType(setting: 'auto' | 'kvm' | 'qemu', options: ProbeOptions): Promise<VirtType> {
  if (setting !== 'auto') return { virtType: setting, reason: 'it is configured so' };
  const kernel = options.kernel ?? (`/boot/vmlinuz-${release()}` as HostPath);
  const keptIn = `${options.runDirectory}/virt-type.json`;
  const kept = parseVerdict(await readFile(keptIn, 'utf8').catch(() => ''), kernel);
  if (kept !== null) return kept;
  const verdict = await probe(kernel);
  await writeFile(keptIn, JSON.stringify({ ...verdict, kernel }));
  return verdict;
}

async function probe(kernel: HostPath): Promise<VirtType> {
  const emulated = (reason: string): VirtType => ({ virtType: 'qemu', reason });
  if (!(await can(KVM_DEVICE, constants.R_OK | constants.W_OK))) return emulated(`${KVM_DEVICE} cannot be opened`);
  if (!(await can(kernel, constants.R_OK))) return emulated(`there is no kernel ${kernel} to try ${KVM_DEVICE} with`);
  if (await boots(kernel, 'kvm')) return { virtType: 'kvm', reason: `${kernel} boots under it` };
  return emulated(`${kernel} does not boot under ${KVM_DEVICE}`);
}

/** Whether a Linux kernel boots under an accelerator of QEMU's within `timeoutMs`. */
export async function boots(
  kernel: HostPath,
  accelerator: 'kvm' | 'tcg',
  timeoutMs = PROBE_TIMEOUT_MS,
): Promise<boolean> {
  const machine = [
    '-accel',
    accelerator,
    '-cpu',
    'max',
    '-machine',
    'q35',
    '-m',
    '256',
    '-nodefaults',
    '-display',
    'none',
  ];
  const guest = ['-kernel', kernel, '-append', 'console=ttyS0 panic=-1', '-serial', 'stdio', '-no-reboot'];
  const doing = `Trying whether guests run under ${accelerator}`;
  // 1: the accelerator cannot be used; 128: ended because the time was over. Both are the answer no.
  const outcome = await run('qemu-system-x86_64', [...machine, ...guest], {
    doing,
    timeoutMs,
    tolerate: [1, 128],
  });
  return outcome.stdout.includes(BOOTED);
}

/** A verdict kept from an earlier start; null when there is none about this kernel, or none that can be read. */
function parseVerdict(json: string, kernel: string): VirtType | null {
  try {
    const kept: unknown = JSON.parse(json);
    if (typeof kept !== 'object' || kept === null || !('kernel' in kept) || kept.kernel !== kernel) return null;
    if (!('virtType' in kept) || !('reason' in kept) || typeof kept.reason !== 'string') return null;
    if (kept.virtType !== 'kvm' && kept.virtType !== 'qemu') return null;
    return { virtType: kept.virtType, reason: kept.reason };
  } catch {
    return null;
  }
}

async function can(path: string, mode: number): Promise<boolean> {
  return access(path, mode).then(
    () => true,
    () => false,
  );
}
