import { runChecks } from './checks.ts';
import { conclude, runSuites } from './suites.ts';

// `npm run check`: format, lint, types, the dependency rule, generated files, unit tests. `-- --write` mends what can
// be mended by itself.
const checks = await runChecks({ write: process.argv.includes('--write') });
const tests = await runSuites(['unit'], 'covering');
conclude('check', { passed: checks.passed + tests.passed, failed: checks.failed + tests.failed });
