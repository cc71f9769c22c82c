import { spawnSync } from 'node:child_process';
import { checkDependencies } from './check-dependencies.ts';
import { checkGenerated } from './check-generated.ts';
import { checkSources } from './check-sources.ts';
import type { Totals } from './suites.ts';

type Check = { readonly name: string; run(): Promise<readonly string[]> };

/** The static checks; each says in lines what it found, no line being a pass. */
export async function runChecks({ write }: { readonly write: boolean }): Promise<Totals> {
  const checks: readonly Check[] = [
    {
      name: 'format and lint (biome)',
      run: async () => tool('biome', ['check', ...(write ? ['--write'] : []), '--error-on-warnings', '.']),
    },
    { name: 'types (tsc)', run: async () => tool('tsc', ['-p', '.']) },
    { name: 'dependency rule', run: checkDependencies },
    { name: 'house rules for sources', run: checkSources },
    { name: 'generated pages are fresh', run: () => checkGenerated(write) },
  ];
  const totals: Totals = { passed: 0, failed: 0 };
  for (const check of checks) {
    const started = performance.now();
    const problems = await check.run();
    const seconds = ((performance.now() - started) / 1000).toFixed(1);
    process.stdout.write(`${problems.length === 0 ? '✔' : '✖'} ${check.name} (${seconds} s)\n`);
    for (const problem of problems) process.stdout.write(`    ${problem}\n`);
    if (problems.length === 0) totals.passed++;
    else totals.failed++;
  }
  return totals;
}

function tool(name: string, args: readonly string[]): string[] {
  const { status, stdout, stderr } = spawnSync(`node_modules/.bin/${name}`, args, { encoding: 'utf8' });
  return status === 0 ? [] : `${stdout}${stderr}`.trimEnd().split('\n');
}
