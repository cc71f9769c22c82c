import { runChecks } from './checks.ts';
import { conclude, runSuites } from './suites.ts';

// `npm test`: the static checks, every fast suite, a covering part of the slow ones. `npm test -- WORD` runs the test
// files whose path holds WORD.
const only = process.argv[2] ?? null;
const checks = only ? { passed: 0, failed: 0 } : await runChecks({ write: false });
const tests = await runSuites(['unit', 'contract', 'scenario', 'guarantee'], 'covering', {
  only: only === null ? null : [only],
  except: [],
});
conclude('tests', { passed: checks.passed + tests.passed, failed: checks.failed + tests.failed });
