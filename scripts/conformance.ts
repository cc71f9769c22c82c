import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { startCloud } from '../test/conformance/cloud.ts';
import { proveInSecondKernel } from '../test/conformance/second-kernel.ts';
import { runTempest } from '../test/conformance/tempest.ts';
import type { Totals } from './suites.ts';

const LISTS = new URL('../test/conformance/', import.meta.url);
/** The lists of tests of each area: of what runs anywhere, and of what needs logical volumes, for which a second kernel is booted. */
const areas = { volumes: { here: 'volumes', inSecondKernel: 'volumes-lvm' } } as const;
const WORKERS = 2;

/**
 * Runs those of OpenStack's own tests that are listed for an area against the real service, with a line a test. What is
 * skipped, or never runs, counts as failed. Null: the arguments name no area. `--list`: one list, in this kernel.
 */
export async function runConformance(args: readonly string[]): Promise<Totals | null> {
  const [option, name = '', word = ''] = args;
  if (option === '--list') return await runTests(name, await listed(name, word));
  const area = Object.entries(areas).find(([area]) => area === name)?.[1];
  if (option !== '--area' || !area) return null;
  const tests = await listed(area.here, word);
  const totals = tests.length === 0 ? { passed: 0, failed: 0 } : await runTests(name, tests);
  if ((await listed(area.inSecondKernel, word)).length === 0) return totals;
  const more = await proveInSecondKernel(['conformance', '--list', area.inSecondKernel, word]);
  return { passed: totals.passed + more.passed, failed: totals.failed + more.failed };
}

async function listed(list: string, word: string): Promise<string[]> {
  const tests = (await readFile(new URL(`${list}.txt`, LISTS), 'utf8')).split('\n');
  return tests.filter((test) => test !== '' && test.includes(word));
}

async function runTests(name: string, tests: readonly string[]): Promise<Totals> {
  const folder = await mkdtemp('/var/tmp/nightlatch-conformance-');
  const stop = new AbortController();
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => stop.abort());
  const passed = new Set<string>();
  await using cloud = await startCloud();
  process.stdout.write(`${tests.length} tests of ${name} against ${cloud.service.url}\n`);
  const output = await runTempest(cloud, {
    ...{ folder, workers: WORKERS, tests, stop: stop.signal },
    onTest: (test, outcome) => {
      if (outcome === 'ok') passed.add(test);
      process.stdout.write(`${outcome === 'ok' ? '✔' : '✖'} ${test}${outcome === 'SKIPPED' ? ' (skipped)' : ''}\n`);
    },
  });
  const missing = tests.filter((test) => !passed.has(test));
  if (missing.length === 0) await rm(folder, { recursive: true });
  else
    process.stdout.write(
      `\nnot passed:\n${missing.map((test) => `  ${test}\n`).join('')}all they printed: ${output}\n`,
    );
  return { passed: tests.length - missing.length, failed: missing.length };
}
