import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import type { Secret } from '#core/secret.ts';

export type CommandOptions = { readonly stdin?: Secret; readonly tolerate?: readonly number[] };

/** Runs a program for a test, by no shape of ours, and returns what it printed. A program that fails is an error. */
export function command(
  program: string,
  args: readonly string[],
  { stdin, tolerate = [] }: CommandOptions = {},
): string {
  const go = (input: Uint8Array | undefined) =>
    spawnSync(program, args, { encoding: 'utf8', ...(input ? { input } : {}) });
  const { status, stdout, stderr, error } = stdin ? stdin.use(go) : go(undefined);
  if (error) throw error;
  assert.ok(status === 0 || tolerate.includes(status ?? -1), `${program} ended with ${status}: ${stderr}`);
  return stdout;
}
