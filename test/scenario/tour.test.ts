import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmod, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { text } from 'node:stream/consumers';
import { after, before, describe, it } from 'node:test';
import { run } from '#host/exec.ts';
import { destroyState, guestsOf, processesOf } from '#test/support/destroy-state.ts';
import { waitUntil } from '#test/support/wait.ts';

type Line = {
  readonly step?: string;
  readonly ok?: boolean;
  readonly ms?: number;
  readonly evidence?: readonly { readonly lookedAt: string; readonly found: string }[];
  readonly result?: string;
  readonly reason?: string;
};
type Ended = { readonly code: number | null; readonly lines: readonly Line[]; readonly stderr: string };

const ALL = process.env.NIGHTLATCH_TEST_DEPTH === 'all';
const UUID = '[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}';

/** What each step must have shown, in `what was looked at: what was found`. */
const expected: Readonly<Record<string, readonly RegExp[]>> = {
  service: [
    /service catalog: identity, image, compute, block-storage, volumev3 at http/,
    /COMPUTE_EPHEMERAL_ENCRYPTION_LUKS/,
    /32 bytes, mode 0600/,
  ],
  image: [/the file: .*linux-image-.*, raw, \d+ MiB/, /active, SHA-512 [0-9a-f]{16}…, as the file/],
  flavor: [
    /root 1 GiB, ephemeral 1 GiB, swap 64 MiB/,
    /hw:ephemeral_encryption=true hw:ephemeral_encryption_format=luks/,
  ],
  server: [
    /: ACTIVE as instance-/,
    new RegExp(`booted, boot id ${UUID}`),
    /vda 1024, vdb 1024, vdc 64 MiB to the byte/,
  ],
  disks: [
    /luksDump, qemu-img: root: LUKS1 aes-xts-plain64, 512 bits, 1 key slot; (qcow2|raw), luks aes-256-xts/,
    /luksDump, qemu-img: ephemeral: LUKS1 .*luks aes-256-xts/,
    /luksDump, qemu-img: swap: LUKS1 .*luks aes-256-xts/,
    /luksDump, qemu-img: config drive: LUKS1 .*luks aes-256-xts/,
    /its 4 disks: 4 different secrets, 4 different volume keys/,
    /a wrong key on each disk: 4 of 4 refused/,
    /no marker in \d{3,} files/,
    /postgresql \d+.*disks \d+|disks \d+.*postgresql \d+/,
  ],
  stop: [/: SHUTOFF/, /no QEMU process, no domain, no unlocked disk/, /no secret, no lease \(4 while it ran\)/],
  start: [
    new RegExp(`a new boot id ${UUID}`),
    /found on root, ephemeral and swap/,
    /leases in the database: 4, one a disk/,
  ],
  suspend: [
    /memory of QEMU, process \d+: the search finds a marker \d+ times/,
    /: SUSPENDED/,
    /luksDump, qemu-img: saved memory: LUKS1 .*raw, luks aes-256-xts/,
    /wrong key on the memory: 1 of 1 refused/,
    /no marker in \d{3,} files/,
    /no QEMU process, no domain, no unlocked disk/,
    /no secret, no lease \(4 while it ran\)/,
  ],
  resume: [new RegExp(`the same boot goes on, boot id ${UUID}`), /and in its memory/, /the saved memory: destroyed/],
  poweroff: [/guest end to locked: \d+ ms/, /: SHUTOFF/, /no secret, no lease \(4 while it ran\)/],
  delete: [
    /0 of the 4 there were/,
    /old header, root: (\d+) of \1 pieces .* not LUKS/,
    /old header, config drive: (\d+) of \1 pieces .* not LUKS/,
    /by hard links made before: 4 of 4 overwritten/,
    /no marker in \d{3,} files/,
  ],
  audit: [
    /\d+ records, unbroken/,
    /keys of its 5 disks: 5 stored, \d+ released, 5 destroyed/,
    /(\d+) opened, \1 closed/,
  ],
};

let home: string;
before(async () => {
  // A short path: the sockets below it have at most 107 characters.
  home = await mkdtemp('/var/tmp/nl-tour-');
  await chmod(home, 0o711);
});
after(async () => {
  await destroyState(home);
  await rm(home, { recursive: true, force: true });
});

/** Runs a tour to its end. `watch` is told each line as it comes, and may end the process. */
async function tour(
  dataDirectory: string,
  args: readonly string[] = [],
  watch: (line: Line, child: ChildProcess) => void = () => {},
): Promise<Ended> {
  const own = ['src/cli/main.ts', 'tour', '--json', '--exit', '--data-dir', dataDirectory];
  const child = spawn(process.execPath, [...own, ...args], {
    env: { PATH: process.env.PATH ?? '' },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const closed = once(child, 'close');
  const stderr = text(child.stderr);
  const lines: Line[] = [];
  for await (const line of createInterface({ input: child.stdout })) {
    // Nothing but JSON may be on standard output.
    const parsed = JSON.parse(line) as Line;
    lines.push(parsed);
    watch(parsed, child);
  }
  await closed;
  return { code: child.exitCode, lines, stderr: await stderr };
}

function shown(lines: readonly Line[], step: string): string[] {
  const evidence = lines.find((line) => line.step === step)?.evidence ?? [];
  return evidence.map(({ lookedAt, found }) => `${lookedAt}: ${found}`);
}

function assertWhole({ code, lines, stderr }: Ended): void {
  const failed = lines.find((line) => line.ok === false || line.result === 'failed');
  assert.equal(failed, undefined, `${JSON.stringify(failed)} ${stderr}`);
  assert.equal(code, 0, stderr);
  assert.deepEqual(
    lines.map((line) => line.step ?? line.result),
    [...Object.keys(expected), 'ok'],
  );
  assert.deepEqual(lines.at(-1), { result: 'ok' });
  for (const { step = '', ok, ms = -1 } of lines.slice(0, -1)) {
    assert.ok(ok && Number.isInteger(ms) && ms >= 0, step);
    for (const wanted of expected[step] ?? [])
      assert.ok(
        shown(lines, step).some((line) => wanted.test(line)),
        `${step} does not show ${wanted}: ${shown(lines, step).join('\n')}`,
      );
  }
  const [, ms] = /: (\d+) ms/.exec(shown(lines, 'poweroff').join()) ?? [];
  assert.ok(Number(ms) <= 2000);
}

async function assertNothingLeft(dataDirectory: string): Promise<void> {
  assert.deepEqual(await processesOf(dataDirectory), []);
  assert.doesNotMatch(await readFile('/proc/self/mountinfo', 'utf8'), new RegExp(dataDirectory));
}

describe('npm run tour', { timeout: 900_000 }, () => {
  it('shows the main job, with disks as qcow2, and leaves nothing running', async () => {
    const data = join(home, 'q');
    assertWhole(await tour(data));
    await assertNothingLeft(data);
  });

  it('cleans up after one that was killed, and ends in order at Ctrl-C in the middle', async () => {
    const data = join(home, 'q');
    const killed = await tour(data, [], (line, child) => {
      if (line.step === 'server') child.kill('SIGKILL');
    });
    assert.equal(killed.code, null);
    assert.equal((await guestsOf(data)).length, 1, 'the guest outlives the service');

    const half = async (child: ChildProcess) => {
      const disks = () => readdir(join(data, 'disks'));
      await waitUntil('the server is being created', async () => (await disks()).length > 0);
      child.kill('SIGINT');
    };
    const watching: Promise<void>[] = [];
    const interrupted = await tour(data, [], (line, child) => {
      if (line.step === 'flavor') watching.push(half(child));
    });
    await Promise.all(watching);
    assert.equal(interrupted.code, 130, interrupted.stderr);
    assert.deepEqual(interrupted.lines.at(-1), { result: 'failed', step: 'server', reason: 'interrupted' });
    assert.match(shown(interrupted.lines, 'service').join(), /left by an interrupted tour: 1 server, deleted now/);
    assert.match(shown(interrupted.lines, 'image').join(), /uploaded by an earlier tour/);
    await assertNothingLeft(data);
  });

  it('says which step failed and why when the image is no disk image', async () => {
    const file = join(home, 'notes.txt');
    await writeFile(file, 'this is no disk image\n'.repeat(1000));
    const { code, lines } = await tour(join(home, 'q'), ['--image', file]);
    assert.equal(code, 1);
    assert.deepEqual([lines.at(-2)?.step, lines.at(-2)?.ok], ['image', false]);
    assert.deepEqual([lines.at(-1)?.result, lines.at(-1)?.step], ['failed', 'image']);
    assert.match(lines.at(-1)?.reason ?? '', /notes\.txt is no disk image: it is neither qcow2 nor a raw disk/);
    await assertNothingLeft(join(home, 'q'));
  });

  it('passes on the reason of the service when it refuses the image', async () => {
    const file = join(home, 'thief.qcow2');
    const args = ['create', '-q', '-f', 'qcow2', '-F', 'raw', '-b', '/etc/passwd', file];
    await run('qemu-img', args, { doing: 'Making a bad image' });
    const { code, lines } = await tour(join(home, 'q'), ['--image', file]);
    assert.equal(code, 1);
    assert.match(lines.at(-1)?.reason ?? '', /answered 400: .*it has a backing file/);
    await assertNothingLeft(join(home, 'q'));
  });

  if (ALL) {
    it('shows the same with disks as raw', async () => {
      const data = join(home, 'r');
      assertWhole(await tour(data, ['--images-type', 'raw']));
      await assertNothingLeft(data);
    });
  }
});
