import { processIds, readCommandLine, signalProcess } from '#host/processes.ts';

/** A running program that exports a disk, recognised by its command line and by nothing that can go stale. */
export type ExportProcess = { readonly pid: number; readonly mountpoint: string };

/** What `qemu-storage-daemon` is told to export where. A process is found again by exactly this argument. */
export function exportArgument(mountpoint: string): string {
  return JSON.stringify({
    type: 'fuse',
    id: 'export',
    'node-name': 'disk',
    mountpoint,
    writable: true,
    'allow-other': 'off',
  });
}

/** Every process on this host that exports a disk to a path below `folder`, whoever started it. */
export async function findExportProcesses(folder: string): Promise<ExportProcess[]> {
  const pids = await processIds();
  const found = await Promise.all(pids.map(async (pid) => ({ pid, mountpoint: await exportedBy(pid) })));
  return found.flatMap(({ pid, mountpoint }) => (mountpoint?.startsWith(`${folder}/`) ? [{ pid, mountpoint }] : []));
}

/**
 * Sends a signal to the process if it is still the one that exports this mountpoint. False: it is gone.
 * A process that ended has an empty command line, also while its parent has not yet collected it.
 */
export async function signalExportProcess(process_: ExportProcess, signal: NodeJS.Signals | 0): Promise<boolean> {
  return (await exportedBy(process_.pid)) === process_.mountpoint && signalProcess(process_.pid, signal);
}

async function exportedBy(pid: number): Promise<string | null> {
  const commandLine = await readCommandLine(pid);
  const argument = commandLine.split('\0').find((text) => text.startsWith('{"type":"fuse",'));
  if (argument === undefined) return null;
  const mountpoint = parseMountpoint(argument);
  return mountpoint !== null && argument === exportArgument(mountpoint) ? mountpoint : null;
}

function parseMountpoint(argument: string): string | null {
  try {
    const { mountpoint } = JSON.parse(argument) as { mountpoint?: unknown };
    return typeof mountpoint === 'string' ? mountpoint : null;
  } catch {
    return null;
  }
}
