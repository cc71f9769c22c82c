import { parseArgs } from 'node:util';
import { type Bench, benches, benchNames } from '../bench/benches.ts';
import { judge, type Verdict } from '../bench/comparison.ts';
import { renderJson, renderReport } from '../bench/report.ts';

// `npm run bench`: every benchmark. `npm run bench -- NAME…` runs some of them, `--json` prints for programs;
// `--volume-group VG` lets `lvm` measure on this machine instead of in a second kernel.
const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { json: { type: 'boolean', default: false }, 'volume-group': { type: 'string' } },
});
const unknown = positionals.filter((name) => !(name in benches));
if (unknown.length > 0) {
  process.stderr.write(
    `error: there is no benchmark ${unknown.join(', ')}.\nhint: npm run bench -- ${benchNames.join(' | ')} [--json] [--volume-group VG]\n`,
  );
  process.exit(2);
}

// Ended by a signal it still takes down what it started: the next line of progress is an error then.
let signalled: string | null = null;
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => (signalled = signal));
const tell = (line: string): void => {
  if (signalled !== null) throw new Error(`ended by ${signalled}`);
  process.stderr.write(`${line}\n`);
};

const verdicts: Verdict[] = [];
for (const name of benchNames) {
  if (positionals.length > 0 && !positionals.includes(name)) continue;
  const bench: Bench = benches[name];
  const comparisons = await bench((line) => tell(`${name}: ${line}`), { volumeGroup: values['volume-group'] ?? null });
  verdicts.push(...comparisons.map(judge));
}
process.stdout.write(`${values.json ? renderJson(verdicts) : renderReport(verdicts)}\n`);
process.exit(verdicts.every(({ isMet }) => isMet) ? 0 : 1);
