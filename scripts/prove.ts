import { allSuites, conclude, runSuites, type Suite } from './suites.ts';

/** What each capability's evidence is, on real components, all of it. */
const capabilities: Readonly<Record<string, readonly Suite[]>> = {
  'main-job': allSuites,
};

const name = process.argv[2] ?? '';
const evidence = capabilities[name];
if (!evidence) {
  process.stderr.write(`usage: npm run prove -- ${Object.keys(capabilities).join('|')} [WORD]\n`);
  process.exit(2);
}
conclude(name, await runSuites(evidence, 'all', process.argv[3] ?? null));
