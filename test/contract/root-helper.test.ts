import assert from 'node:assert/strict';
import { once } from 'node:events';
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { after, before, describe, test } from 'node:test';
import { newId } from '#core/ids.ts';
import { Secret } from '#core/secret.ts';
import { MIB } from '#core/sizes.ts';
import { type HelperJob, runByHelper } from '#host/helper-client.ts';
import { frame } from '#host/helper-protocol.ts';
import { findInMemory } from '#test/support/memory-scan.ts';
import { asItsUnit, type RootHelper, startRootHelper } from '#test/support/root-helper.ts';
import { NO_MAPPINGS } from '#test/support/volume-group.ts';
import { waitUntil } from '#test/support/wait.ts';

/** cryptsetup takes a file for a device, so that a file stands in for a volume where the kernel has no device-mapper. */
const GROUP = `nl-test-${process.pid}`;
const VOLUME = `/dev/${GROUP}/${newId()}_disk`;
const FORMAT = [
  'luksFormat',
  '-q',
  '--type',
  'luks2',
  '--offset',
  '32768',
  '--sector-size',
  '512',
  '--cipher',
  'aes-xts-plain64',
  '--key-size',
  '512',
  '--hash',
  'sha256',
  '--pbkdf',
  'pbkdf2',
  '--pbkdf-force-iterations',
];
const format = (iterations: number) => [...FORMAT, String(iterations), '--key-file=-', VOLUME];
const TEST_KEY = ['open', '--type', 'luks2', '--test-passphrase', '--key-file=-', VOLUME];
/** Minutes of work for cryptsetup. */
const LONG = 1_000_000_000;

describe('a root helper', { timeout: 120_000 }, () => {
  let helper: RootHelper;
  before(async () => {
    mkdirSync(`/dev/${GROUP}`, { mode: 0o700 });
    writeFileSync(VOLUME, '', { mode: 0o600 });
    truncateSync(VOLUME, 32 * MIB);
    helper = await startRootHelper({ volumeGroup: GROUP, activated: true, wrapper: asItsUnit() });
  });
  after(async () => {
    await helper[Symbol.asyncDispose]();
    rmSync(`/dev/${GROUP}`, { recursive: true });
  });

  const ask = (program: string, args: readonly string[], more: Partial<HelperJob> = {}) =>
    runByHelper(helper.socket, { program, args, doing: 'Trying', ...more });
  const open = async (): Promise<Socket> => {
    const socket = connect(helper.socket);
    socket.on('error', () => {});
    await once(socket, 'connect');
    return socket;
  };
  /** Until the helper has closed a connection; what it answered. */
  const closed = async (socket: Socket): Promise<string> => {
    let answer = '';
    socket.on('data', (chunk) => {
      answer += chunk.toString('latin1');
    });
    await ended(socket);
    return answer;
  };
  const formatting = () =>
    readdirSync('/proc').filter(
      (pid) =>
        /^\d+$/.test(pid) && commandOf(pid).startsWith('cryptsetup\0luksFormat') && commandOf(pid).includes(VOLUME),
    );

  test('runs a command of its list, and tells how it ended and what it said', async () => {
    using key = Secret.generate();
    using wrong = Secret.generate();
    assert.deepEqual((await ask('cryptsetup', format(1000), { stdin: key })).answer, { kind: 'ended', code: 0 });
    assert.deepEqual((await ask('cryptsetup', TEST_KEY, { stdin: key })).answer, { kind: 'ended', code: 0 });
    const refused = await ask('cryptsetup', TEST_KEY, { stdin: wrong });
    assert.deepEqual(refused.answer, { kind: 'ended', code: 2 });
    assert.match(refused.stderr, /No key available/);
  });

  test('gives its programs the umask it was given, whatever its socket needs', () => {
    assert.match(readFileSync(`/proc/${helper.process.pid}/status`, 'utf8'), /^Umask:\t0022$/m);
  });

  test('keeps nothing of a key in its memory', async () => {
    using key = Secret.generate();
    await ask('cryptsetup', format(1000), { stdin: key });
    await ask('cryptsetup', TEST_KEY, { stdin: key });
    const pid = helper.process.pid as number;
    assert.match(commandOf(String(pid)), /root-helper\/main\.ts/, 'it took the place of what started it');
    // The control: what it was asked is still there somewhere, or this finds nothing at all.
    assert.notDeepEqual(await findInMemory(pid, Buffer.from(GROUP)), []);
    assert.deepEqual(
      await findInMemory(
        pid,
        key.use((bytes) => Buffer.from(bytes)),
      ),
      [],
    );
  });

  test('runs nothing else: no other program, file, device, volume group or option', async () => {
    using key = Secret.generate();
    const elsewhere = VOLUME.replace(GROUP, 'other');
    const before = readFileSync(VOLUME);
    for (const [program, ...args] of [
      ['sh', '-c', 'id'],
      ['cat', '/etc/shadow'],
      ['mount', '--make-shared', '/'],
      ['umount', '/'],
      ['blkdiscard', '--zeroout', '--length', '512', VOLUME],
      ['mkfs.ext4', '-q', VOLUME],
      ['cryptsetup', 'luksDump', '/etc/shadow'],
      ['cryptsetup', ...TEST_KEY.slice(1, -2), '--key-file=/etc/shadow', VOLUME],
      ['cryptsetup', ...TEST_KEY.with(-1, '/dev/sda')],
      ['cryptsetup', ...TEST_KEY.with(-1, elsewhere)],
      ['cryptsetup', ...TEST_KEY, '--header', '/etc/shadow'],
      ['cryptsetup', 'close', 'vg0-root'],
      ['lvremove', ...NO_MAPPINGS, '-f', '-y', 'other/root'],
      ['lvremove', ...NO_MAPPINGS, '-f', '-y', `${GROUP}/root`],
      ['lvs', '--config', 'devices/scan="/"', '-o', 'lv_name', GROUP],
      ['lvs', ...NO_MAPPINGS, '--config', 'devices/scan="/"', '-o', 'lv_name', GROUP],
      ['dmsetup', 'table', '--showkeys'],
      ['constructor'],
      ['__proto__'],
    ] as const) {
      const { answer } = await ask(program, args, args.includes('--key-file=-') ? { stdin: key } : {});
      assert.equal(answer.kind, 'refused', `${program} ${args.join(' ')}`);
    }
    const table = await ask('dmsetup', ['create', 'nl-probe-1'], { input: '0 8 linear /dev/sda 0\n' });
    assert.equal(table.answer.kind, 'refused');
    assert.deepEqual(readFileSync(VOLUME), before);
    assert.match(helper.log(), /refused \["cat","\/etc\/shadow"\]/);
  });

  test('survives noise, half a request, a length of 1 GiB and a flood of clients', async () => {
    for (const noise of [
      Buffer.alloc(100_000, 'x'),
      Buffer.from([0x40, 0, 0, 0]),
      Buffer.concat([frame('{}'), Buffer.from([0x40, 0, 0, 0])]),
    ]) {
      const socket = await open();
      socket.write(noise);
      assert.equal(await closed(socket), '');
    }
    const nonsense = await open();
    nonsense.write(Buffer.concat([frame('nonsense'), frame('')]));
    assert.match(await closed(nonsense), /this is no request/);
    const twice = await open();
    twice.write(Buffer.concat([frame('{}'), frame(''), frame('')]));
    await closed(twice);

    const halves = await Promise.all(Array.from({ length: 200 }, open));
    for (const socket of halves) socket.write(Buffer.from([0, 0]));
    await Promise.all(halves.map(ended));
    assert.equal((await ask('cryptsetup', TEST_KEY, { stdin: Secret.generate() })).answer.kind, 'ended');
  });

  test('ends a program whose time is over, and one whose client is gone', async () => {
    using key = Secret.generate();
    const slow = await ask('cryptsetup', format(LONG), { stdin: key, timeoutMs: 500 });
    assert.ok(slow.answer.kind === 'ended' && slow.answer.code !== 0);
    const socket = await open();
    const request = { program: 'cryptsetup', args: format(LONG), input: 'key', timeoutMs: 60_000 };
    socket.write(Buffer.concat([frame(JSON.stringify(request)), frame(key.use((bytes) => Buffer.from(bytes)))]));
    await waitUntil('it runs', async () => formatting().length === 1);
    socket.destroy();
    await waitUntil('it has ended', async () => formatting().length === 0);
  });
});

test('a helper whose bounds others can change, or that has none, does not start', async () => {
  for (const [options, why] of [
    [{ volumeGroup: GROUP, configMode: 0o666 }, /can be changed by others than root/],
    [{ volumeGroup: '' }, /images_volume_group is empty/],
  ] as const) {
    await using refused = await startRootHelper(options);
    await refused.ended;
    assert.match(refused.log(), why);
    assert.equal(existsSync(refused.socket), false);
  }
});

test('a helper whose socket all can write to serves nobody', async () => {
  await using refused = await startRootHelper({ volumeGroup: GROUP, activated: true, socketMode: 0o666 });
  await assert.rejects(runByHelper(refused.socket, { program: 'vgs', args: [], doing: 'Trying' }));
  await refused.ended;
  assert.match(refused.log(), /everybody may write to .*helper\.sock/);
});

test('no helper at all is told by name', async () => {
  const job = { program: 'lvs', args: [], doing: 'Listing volumes' };
  await assert.rejects(
    runByHelper('/run/nowhere.sock' as RootHelper['socket'], job),
    /Listing volumes failed: the root helper at \/run\/nowhere\.sock does not answer .*nightlatch-helper\.socket/,
  );
});

/** Until a connection has ended, in whatever way. */
function ended(socket: Socket): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  socket.resume();
  if (socket.closed) resolve();
  else socket.once('close', () => resolve());
  return promise;
}

function commandOf(pid: string): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'latin1');
  } catch {
    // It has ended meanwhile.
    return '';
  }
}
