import { readdir, readFile } from 'node:fs/promises';
import { hasCode } from '#host/files.ts';

/** Ids of all processes of this kernel that are there now. */
export async function processIds(): Promise<number[]> {
  return (await readdir('/proc')).filter((name) => /^\d+$/.test(name)).map(Number);
}

/** A process's arguments, each ended by NUL; empty for one that has ended, also while nobody has collected it. */
export async function readCommandLine(pid: number): Promise<string> {
  try {
    return await readFile(`/proc/${pid}/cmdline`, 'utf8');
  } catch (error) {
    // A process may end at any moment; reading it then says ENOENT or ESRCH.
    if (hasCode(error, 'ENOENT', 'ESRCH')) return '';
    throw error;
  }
}

/** Sends a signal. False: the process ended before. */
export function signalProcess(pid: number, signal: NodeJS.Signals | 0): boolean {
  try {
    process.kill(pid, signal);
    return true;
  } catch (error) {
    if (hasCode(error, 'ESRCH')) return false;
    throw error;
  }
}
