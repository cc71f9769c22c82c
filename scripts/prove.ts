import { allSuites, conclude, runSuites } from './suites.ts';

type Evidence = { readonly only: string | null; readonly except: string | null };

/** What each capability's evidence is, on real components, all of it: test files by a part of their path. */
const capabilities: Readonly<Record<string, Evidence>> = {
  'main-job': { only: null, except: 'second-kernel' },
  // What there is of it so far.
  lvm: { only: 'second-kernel', except: null },
};

const [name = '', word] = process.argv.slice(2);
const evidence = capabilities[name];
if (!evidence) {
  process.stderr.write(`usage: npm run prove -- ${Object.keys(capabilities).join('|')} [WORD]\n`);
  process.exit(2);
}
conclude(name, await runSuites(allSuites, 'all', { only: word ?? evidence.only, except: evidence.except }));
