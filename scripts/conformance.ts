import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { startCloud } from '../test/conformance/cloud.ts';
import { runTempest } from '../test/conformance/tempest.ts';
import type { Totals } from './suites.ts';

const LISTS = new URL('../test/conformance/', import.meta.url);
const areas = ['volumes'] as const;
const WORKERS = 2;

/**
 * Runs those of OpenStack's own tests that are listed for an area against the real service, with a line a test. What is
 * skipped, or never runs, counts as failed. Null: the arguments name no area.
 */
export async function runConformance(args: readonly string[]): Promise<Totals | null> {
  const [option, area, word = ''] = args;
  if (option !== '--area' || !areas.some((one) => one === area)) return null;
  const listed = (await readFile(new URL(`${area}.txt`, LISTS), 'utf8')).split('\n').filter((line) => line !== '');
  const tests = listed.filter((test) => test.includes(word));
  const folder = await mkdtemp('/var/tmp/nightlatch-conformance-');
  const stop = new AbortController();
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => stop.abort());
  const passed = new Set<string>();
  await using cloud = await startCloud();
  process.stdout.write(`${tests.length} tests of ${area} against ${cloud.service.url}\n`);
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
