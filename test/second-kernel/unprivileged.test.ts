import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync, statSync } from 'node:fs';
import { dirname } from 'node:path';
import { createInterface } from 'node:readline';
import { after, before, describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import type { DiskSpec } from '#core/disk.ts';
import { MIB } from '#core/sizes.ts';
import { command } from '#test/support/command.ts';
import { holds, sizeOf, someDisk, tell } from '#test/support/disk-lab.ts';
import { asNightlatch, makeAccount, PACKAGING } from '#test/support/own-account.ts';
import { asItsUnit, type RootHelper, startRootHelper } from '#test/support/root-helper.ts';
import { parseTestResults } from '#test/support/test-results.ts';
import { NO_MAPPINGS } from '#test/support/volume-group.ts';

/** A service that is not root, with the files of `packaging/unprivileged`, seen from outside by root. */
const GROUP = process.env.NIGHTLATCH_TEST_VOLUME_GROUP ?? '';
const CHECKOUT = fileURLToPath(new URL('../..', import.meta.url));

let helper: RootHelper;
before(async () => {
  makeAccount(GROUP);
  command('lvcreate', ['-y', '-L', '20M', '-n', 'root', GROUP]);
  helper = await startRootHelper({ volumeGroup: GROUP, activated: true, wrapper: asItsUnit() });
  command('chgrp', ['nightlatch', helper.socket]);
  command('chmod', ['711', dirname(helper.socket)]);
});
after(async () => {
  await helper[Symbol.asyncDispose]();
  command('lvremove', ['-f', `${GROUP}/root`]);
});

const environment = (socket: string) => ({
  PATH: process.env.PATH,
  NIGHTLATCH_TEST_VOLUME_GROUP: GROUP,
  NIGHTLATCH_TEST_ROOT_HELPER: socket,
});

/** The service in miniature, as its own account; see unprivileged-worker.ts. */
class Service {
  readonly #process: ChildProcess;
  readonly #answers: AsyncIterator<string>;

  constructor(socket: string) {
    const [program = '', ...args] = asNightlatch;
    const worker = fileURLToPath(new URL('../support/unprivileged-worker.ts', import.meta.url));
    this.#process = spawn(program, [...args, process.execPath, worker], {
      cwd: CHECKOUT,
      env: environment(socket),
      stdio: ['pipe', 'pipe', 'inherit'],
    });
    this.#answers = createInterface({ input: this.#process.stdout as NodeJS.ReadableStream })[Symbol.asyncIterator]();
  }

  async ask(verb: string, ...args: unknown[]): Promise<{ ok?: unknown; error?: string; code?: string }> {
    this.#process.stdin?.write(`${JSON.stringify([verb, ...args])}\n`);
    const { value } = await this.#answers.next();
    return JSON.parse(value ?? '{"error":"the worker ended","code":"ended"}');
  }

  async must(verb: string, ...args: unknown[]): Promise<unknown> {
    const { ok, error } = await this.ask(verb, ...args);
    assert.equal(error, undefined);
    return ok;
  }

  get status(): string {
    return readFileSync(`/proc/${this.#process.pid}/status`, 'utf8');
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const closed = once(this.#process, 'close');
    this.#process.stdin?.end();
    await closed;
  }
}

test('a service without root makes, opens, grows, closes and destroys encrypted volumes', async () => {
  await using service = new Service(helper.socket);
  await service.must('checkCipher');
  assert.match(service.status, /^CapEff:\t0+$/m);
  assert.doesNotMatch(service.status, /^Uid:.*\b0\b/m);
  for (const encryption of ['plain', 'luksv2'] as const) {
    const disk = someDisk({ storage: 'lvm', encryption, sizeBytes: 16 * MIB });
    await service.must('make', disk);
    const volume = `/dev/${GROUP}/${disk.ownerId}_disk.eph0`;
    const path = String(await service.must('unlock', disk));
    assert.equal(sizeOf(path), disk.sizeBytes);
    assert.equal(statSync(path).mode & 0o777, 0o660);
    await service.must('write', path, 'MARKER-OF-THE-GUEST');
    await service.must('lock', disk);
    assert.doesNotMatch(tell('dmsetup', 'table', '--showkeys').text, / crypt /);
    assert.equal(await holds(volume, 'MARKER-OF-THE-GUEST'), false);
    const larger: DiskSpec = { ...disk, sizeBytes: 32 * MIB };
    await service.must('grow', larger);
    assert.match(String(await service.must('read', await service.must('unlock', larger))), /^MARKER-OF-THE-GUEST/);
    await service.must('lock', larger);
    await service.must('destroy', larger);
    assert.equal(tell('lvs', '--noheadings', '--select', `lv_name=~"${disk.ownerId}"`, GROUP).text.trim(), '');
  }
});

test('a service that was taken over reaches no other volume, device or file, with the helper or without', async () => {
  await using service = new Service(helper.socket);
  const disk = someDisk({ storage: 'lvm', encryption: 'luksv2', sizeBytes: 16 * MIB });
  await service.must('make', disk);
  const mine = `/dev/${GROUP}/${disk.ownerId}_disk.eph0`;
  const mapping = `nl-${disk.ownerId}-${disk.id}`;
  await service.must('openDevice', mine);
  for (const path of [`/dev/${GROUP}/root`, '/dev/ubda', '/dev/mapper/control', '/etc/shadow']) {
    assert.equal((await service.ask('openDevice', path)).code, 'EACCES', path);
  }
  const open = ['open', '--type', 'luks2', '--key-file=-'];
  for (const [program, ...args] of [
    ['cryptsetup', ...open, `/dev/${GROUP}/root`, mapping],
    ['cryptsetup', ...open, '/dev/ubda', mapping],
    ['cryptsetup', ...open, mine, 'root'],
    ['cryptsetup', ...open, '--header', '/etc/shadow', mine, mapping],
    ['cryptsetup', 'open', '--type', 'luks2', '--key-file=/etc/shadow', mine, mapping],
    ['dmsetup', 'table', '--showkeys', mapping],
    ['lvremove', ...NO_MAPPINGS, '-f', '-y', `${GROUP}/root`],
    ['lvextend', ...NO_MAPPINGS, '-y', '-L', '1b', `${GROUP}/root`],
    ['lvcreate', ...NO_MAPPINGS, '-y', '-Wy', '-Zy', '-L', '4194304b', '-n', 'mine', GROUP],
  ]) {
    assert.equal(await service.must('askHelper', program, args), 'refused', `${program} ${args.join(' ')}`);
  }
  await service.must('destroy', disk);
  assert.doesNotMatch(tell('dmsetup', 'ls').text, /^nl-[0-9a-f]{8}-/m);
});

test('it takes the memory that systemd mounts for it, and cannot do without', async () => {
  command('systemd-tmpfiles', ['--create', `${PACKAGING}/nightlatch.tmpfiles`]);
  const unit = readFileSync(`${PACKAGING}/var-lib-nightlatch-run.mount`, 'utf8');
  const value = (name: string) => new RegExp(`^${name}=(.+)$`, 'm').exec(unit)?.[1] ?? '';
  await using service = new Service(helper.socket);
  const before = await service.ask('prepareRun', value('Where'));
  assert.equal(before.code, 'run-directory-unfit');
  assert.match(before.error ?? '', /start var-lib-nightlatch-run\.mount/);
  command('mount', ['-t', value('Type'), '-o', value('Options'), value('What'), value('Where')]);
  await service.must('prepareRun', value('Where'));
  assert.equal(statSync(`${value('Where')}/tty`).mode & 0o777, 0o700);
  command('umount', [value('Where')]);
});

test('without a helper it fails, and says what is missing; with one that is gone, which', async () => {
  const disk = someDisk({ storage: 'lvm', encryption: 'plain' });
  await using alone = new Service('');
  const none = await alone.ask('make', disk);
  assert.equal(none.code, 'root-helper-required');
  assert.match(none.error ?? '', /needs root, and the service is not root\. Start nightlatch-helper\.socket/);
  await using forsaken = new Service('/run/nowhere.sock');
  const gone = await forsaken.ask('make', disk);
  assert.equal(gone.code, 'root-helper-unavailable');
  assert.match(gone.error ?? '', /the root helper at \/run\/nowhere\.sock does not answer/);
});

test('an account that is not in the group of the socket gets nothing', async () => {
  command('chgrp', ['root', helper.socket]);
  try {
    await using stranger = new Service(helper.socket);
    const { code, error } = await stranger.ask('checkCipher');
    assert.equal(code, 'root-helper-unavailable');
    assert.match(error ?? '', /EACCES/);
  } finally {
    command('chgrp', ['nightlatch', helper.socket]);
  }
});

if (process.env.NIGHTLATCH_TEST_DEPTH === 'all') {
  describe('the contract of storage drivers, by a service without root', () => {
    test('holds for encrypted volumes', { timeout: 900_000 }, async (t) => {
      const runner = fileURLToPath(new URL('../support/run-tests.ts', import.meta.url));
      const env = {
        ...environment(helper.socket),
        NIGHTLATCH_TEST_FORMATS: 'luksv2,plain',
        NIGHTLATCH_TEST_CLEAR: 'no',
      };
      const [program = '', ...args] = asNightlatch;
      const child = spawn(program, [...args, process.execPath, runner, 'test/contract/storage-driver.test.ts'], {
        cwd: CHECKOUT,
        env,
        stdio: ['ignore', 'pipe', 'inherit'],
      });
      let text = '';
      child.stdout.setEncoding('utf8').on('data', (data: string) => {
        text += data;
      });
      await once(child, 'close');
      const results = parseTestResults(text);
      assert.ok(results.length > 10, text);
      for (const { name, skipped, error } of results)
        await t.test(name, () => assert.ok(!skipped && error === null, error ?? 'skipped'));
    });
  });
}
