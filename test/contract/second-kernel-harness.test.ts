import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { SecondKernel } from '#test/support/second-kernel.ts';
import { parseTestResults } from '#test/support/test-results.ts';
import { waitUntil } from '#test/support/wait.ts';

const SUPPORT = fileURLToPath(new URL('../support/', import.meta.url));

describe('a second kernel', { timeout: 120_000 }, () => {
  let kernel: SecondKernel;
  before(async () => {
    kernel = await SecondKernel.start({ disks: [2 ** 30] });
  });
  after(async () => {
    await kernel[Symbol.asyncDispose]();
    assert.deepEqual(traces(kernel.exchange), []);
  });

  test('runs programs, with their input, output and exit code', async () => {
    const outcome = await kernel.run('sh', ['-c', 'cat; echo problem >&2; exit 7'], { stdin: 'two\nlines' });
    assert.deepEqual(outcome, { code: 7, stdout: 'two\nlines', stderr: 'problem\n' });
    const many = await Promise.all([1, 2, 3].map((n) => kernel.must('echo', `a  b*${n}`)));
    assert.deepEqual(many, ['a  b*1\n', 'a  b*2\n', 'a  b*3\n']);
    await assert.rejects(kernel.run('sleep', ['60'], { timeoutMs: 200 }), /more than 200 ms/);
  });

  test('has device-mapper and its disks, and changes nothing outside but the exchange folder', async () => {
    assert.notEqual(await kernel.must('uname', '-r'), spawnSync('uname', ['-r'], { encoding: 'utf8' }).stdout);
    assert.match(await kernel.must('dmsetup', 'targets'), /^crypt /m);
    assert.equal(await kernel.must('blockdev', '--getsize64', ...kernel.disks), `${2 ** 30}\n`);
    await kernel.must('sh', '-c', `echo in > ${kernel.exchange}/note; echo in > /etc/nightlatch-note`);
    assert.equal(readFileSync(`${kernel.exchange}/note`, 'utf8'), 'in\n');
    assert.equal(existsSync('/etc/nightlatch-note'), false);
  });
});

test('a second kernel ends with the process that started it, however that ends', { timeout: 60_000 }, async () => {
  const program = `
    const { SecondKernel } = await import('#test/support/second-kernel.ts');
    const kernel = await SecondKernel.start();
    process.stdout.write(kernel.exchange);
    setInterval(() => {}, 60_000);`;
  const owner = spawn(process.execPath, ['--input-type=module', '--eval', program], {
    cwd: SUPPORT,
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const exchange = await new Promise<string>((resolve) => owner.stdout.once('data', (data) => resolve(String(data))));
  assert.ok(traces(exchange).length >= 2, 'the kernel and its folder are there');
  owner.kill('SIGKILL');
  await waitUntil('the kernel is gone', async () => traces(exchange).length === 0);
});

test('test results from elsewhere tell what failed, what was skipped and what broke', () => {
  const folder = mkdtempSync(join(tmpdir(), 'nightlatch-results-'));
  try {
    const files = { 'some.test.ts': MIXED, 'broken.test.ts': "throw new Error('broken file');" };
    for (const [name, text] of Object.entries(files)) writeFileSync(`${folder}/${name}`, text);
    const paths = Object.keys(files).map((name) => `${folder}/${name}`);
    // Inside a test, Node's test runner takes a run for a part of its own.
    const env = { PATH: process.env.PATH };
    const ran = spawnSync(process.execPath, [`${SUPPORT}run-tests.ts`, ...paths], { encoding: 'utf8', env });
    const results = parseTestResults(ran.stdout);
    const seen = results.map(({ name, skipped, error }) => [name, skipped, error?.split('\n')[0] ?? null]);
    assert.deepEqual(seen.slice(0, 4), [
      ['suite > passes', false, null],
      ['suite > fails', false, 'Error: as it should'],
      ['skipped', true, null],
      ['for later', true, null],
    ]);
    assert.equal(seen.length, 5);
    assert.match(`${results[4]?.name}${results[4]?.error}`, /broken/);
  } finally {
    rmSync(folder, { recursive: true });
  }
});

/** Processes and folders of the kernel with this exchange folder. */
function traces(exchange: string): string[] {
  const processes = readdirSync('/proc').filter((pid) => {
    if (!/^\d+$/.test(pid)) return false;
    const command = readCommand(pid);
    return command.includes(`nightlatch_exchange=${exchange}`);
  });
  return [...processes, ...(existsSync(exchange) ? [exchange] : [])];
}

const MIXED = `
import { describe, test } from 'node:test';
describe('suite', () => {
  test('passes', () => {});
  test('fails', () => { throw new Error('as it should'); });
});
test('skipped', { ['skip']: true }, () => {});
test('for later', { ['todo']: true }, () => {});
`;

function readCommand(pid: string): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'latin1');
  } catch {
    // It has ended meanwhile.
    return '';
  }
}
