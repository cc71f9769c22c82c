/**
 * Runs the test files named as arguments, one after another, and prints each test's result as a line (see
 * `formatTestResult`). Ends with 0 when every file was run to its end, whatever the results.
 */
import { relative } from 'node:path';
import { run } from 'node:test';
import { compileOnce } from '#test/support/program-environment.ts';
import { formatTestResult } from '#test/support/test-results.ts';

type Event = { name: string; nesting: number; file?: string; skip?: string | boolean; todo?: string | boolean };

await compileOnce('/dev/shm/nightlatch-compiled');
const suites: string[] = [];
const stream = run({ files: process.argv.slice(2), concurrency: 1, execArgv: ['--disable-warning=DEP0205'] });
stream.on('test:start', ({ name, nesting }) => {
  suites.length = nesting;
  suites[nesting] = name;
});
stream.on('test:pass', (event) => {
  if (event.details.type !== 'suite') report(event, null);
});
stream.on('test:fail', (event) => {
  const { cause } = event.details.error;
  const why = cause instanceof Error ? (cause.stack ?? cause.message) : String(cause);
  // A suite fails with its tests, which are told one by one, or by itself, in a hook.
  if (event.details.type !== 'suite' || !/subtests? failed/.test(why)) report(event, why);
});

function report({ name, nesting, file, skip, todo }: Event, error: string | null): void {
  const path = [...suites.slice(0, nesting), name].join(' > ');
  const skipped = skip !== undefined || todo !== undefined;
  process.stdout.write(
    formatTestResult({ file: file ? relative(process.cwd(), file) : '', name: path, skipped, error }),
  );
}

for await (const _ of stream);
