import { glob } from 'node:fs/promises';
import { join } from 'node:path';
import { run } from 'node:test';
import { spec } from 'node:test/reporters';
import { compileOnce } from '#test/support/program-environment.ts';

/** Kept from run to run; git ignores it. */
const COMPILED = join(import.meta.dirname, '../.nightlatch/compiled');

/** Every piece of evidence, quick ones first. */
const suites = {
  unit: 'test/unit/*.test.ts',
  contract: 'test/contract/*.test.ts',
  scenario: 'test/scenario/*.test.ts',
  guarantee: 'test/guarantee/*.test.ts',
} as const;

/**
 * Files of a suite that run at once. Each has a data directory, ports and a database of its own, and most of their time they
 * wait for guests; with more, emulated guests starve each other. Few of the contract's have guests.
 */
const atOnce: Readonly<Record<Suite, number>> = { unit: 2, contract: 3, scenario: 2, guarantee: 2 };

export type Suite = keyof typeof suites;
export const allSuites = Object.keys(suites) as Suite[];

export type Totals = { passed: number; failed: number };

/** `covering`: a part of the slow tests that touches every operation; `all`: every one. Tests read it from the environment. */
export type Depth = 'covering' | 'all';

/** Which test files: those whose path holds a word of `only` (null: any), without those whose path holds one of `except`. */
export type Choice = { readonly only: readonly string[] | null; readonly except: readonly string[] };
const EVERYTHING: Choice = { only: null, except: [] };

function isChosen(file: string, { only, except }: Choice): boolean {
  const holds = (word: string) => file.includes(word);
  return (only === null || only.some(holds)) && !except.some(holds);
}

/** Runs suites with a line a test, and counts. A skipped test counts as failed: nothing here is optional. */
export async function runSuites(names: readonly Suite[], depth: Depth, choice: Choice = EVERYTHING): Promise<Totals> {
  process.env.NIGHTLATCH_TEST_DEPTH = depth;
  if (names.some((name) => name !== 'unit')) await compileOnce(COMPILED);
  const totals: Totals = { passed: 0, failed: 0 };
  for (const name of names) {
    const files = (await Array.fromAsync(glob(suites[name]))).filter((file) => isChosen(file, choice)).sort();
    if (files.length === 0) continue;
    process.stdout.write(`\n== ${name}: ${files.length} file(s)\n`);
    await runFiles(files, atOnce[name], totals);
  }
  return totals;
}

async function runFiles(files: string[], concurrency: number, totals: Totals): Promise<void> {
  const stream = run({ files, concurrency, execArgv: ['--disable-warning=DEP0205'] });
  stream.on('test:pass', ({ details, skip, todo }) => {
    if (details.type === 'suite') return;
    if (skip !== undefined || todo !== undefined) totals.failed++;
    else totals.passed++;
  });
  stream.on('test:fail', ({ details }) => {
    if (details.type !== 'suite') totals.failed++;
  });
  for await (const text of stream.compose(new spec())) process.stdout.write(text as string);
}

/** The line that says how it went, and the exit code. */
export function conclude(name: string, { passed, failed }: Totals): never {
  process.stdout.write(`\n${name}: ${passed} passed, ${failed} failed\n`);
  process.exit(failed === 0 && passed > 0 ? 0 : 1);
}
