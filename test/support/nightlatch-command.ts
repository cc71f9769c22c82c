import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { text } from 'node:stream/consumers';
import { programEnvironment } from '#test/support/program-environment.ts';

/** How a `nightlatch` command ended. */
export type CommandOutcome = { readonly code: number | null; readonly stdout: string; readonly stderr: string };

/** Runs the operator's command as a process of its own, to its end. */
export async function nightlatch(...args: string[]): Promise<CommandOutcome> {
  const child = spawn(process.execPath, ['src/cli/main.ts', ...args], {
    env: programEnvironment(),
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const closed = once(child, 'close');
  const [stdout, stderr] = await Promise.all([text(child.stdout), text(child.stderr)]);
  await closed;
  return { code: child.exitCode, stdout, stderr };
}
