import { readFile, writeFile } from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';
import { hasCode } from '#host/files.ts';
import { signalProcess } from '#host/processes.ts';
import type { StatePaths } from '#main/state-paths.ts';

const END_TIMEOUT_MS = 10_000;
const POLL_MS = 20;

/** Notes in the run directory which process serves, so that it can be ended when it hangs. */
export async function noteServiceProcess({ serviceProcess }: StatePaths): Promise<void> {
  const identity = await identityOf(process.pid);
  if (identity !== null) await writeFile(serviceProcess, identity, { mode: 0o600 });
}

/** Kills the process that serves, if there is one; what it had under way goes on at its next start. Returns whether. */
export async function endServiceProcess({ serviceProcess }: StatePaths): Promise<boolean> {
  const noted = await readFile(serviceProcess, 'utf8').catch((error: unknown) => {
    if (hasCode(error, 'ENOENT')) return '';
    throw error;
  });
  const pid = Number(noted.split(' ')[0]);
  if (!(pid > 1) || (await identityOf(pid)) !== noted) return false;
  signalProcess(pid, 'SIGKILL');
  const deadline = Date.now() + END_TIMEOUT_MS;
  while ((await identityOf(pid)) === noted) {
    if (Date.now() > deadline) throw new Error(`process ${pid}, which serves, cannot be killed`);
    await delay(POLL_MS);
  }
  return true;
}

/** Its id and when it started, in ticks since boot: no other process ever has both. Null: it has ended. */
async function identityOf(pid: number): Promise<string | null> {
  const stat = await readFile(`/proc/${pid}/stat`, 'latin1').catch((error: unknown) => {
    if (hasCode(error, 'ENOENT', 'ESRCH')) return null;
    throw error;
  });
  // See proc(5): the name in brackets may hold anything, so count from its end; field 3 is the state, 22 the start.
  const fields = stat?.slice(stat.lastIndexOf(')') + 2).split(' ');
  return fields === undefined || fields[0] === 'Z' ? null : `${pid} ${fields[19]}`;
}
