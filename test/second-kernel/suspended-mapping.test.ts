import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { readFile, writeFile } from 'node:fs/promises';
import { after, before, describe, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import type { DiskSpec } from '#core/disk.ts';
import { NightlatchError } from '#core/errors.ts';
import { Secret } from '#core/secret.ts';
import { MIB } from '#core/sizes.ts';
import { kernelLuksEncryptor } from '#host/encryption/dm-crypt/kernel-luks.ts';
import type { Encryptor, Medium } from '#host/encryption/encryptor.ts';
import { type DiskLab, diskLab, makeDisk, mediumOf, someDisk, tell } from '#test/support/disk-lab.ts';
import { cryptMappings, diskKeysInKeyrings } from '#test/support/volume-group.ts';
import { waitUntil } from '#test/support/wait.ts';

/*
 * A mapping whose key is wiped while something keeps it open, as a paused guest does: whoever reads or writes it waits,
 * nobody else does, and it can be given its key again or closed at any time.
 */

const code = (expected: string) => (error: unknown) => error instanceof NightlatchError && error.code === expected;
const options = { noReadWorkqueue: false, noWriteWorkqueue: false };
const MARKER = 'MARKER-OF-THE-GUEST';
/** Long for what waits for nothing, in a second kernel too. */
const PROMPT_MS = 30_000;

let lab: DiskLab;
before(async () => {
  lab = await diskLab();
});
after(async () => lab[Symbol.asyncDispose]());

type Case = { disk: DiskSpec; medium: Medium; key: Secret; name: string; path: string };

/** A process that reads the first sectors past the page cache; it prints them, or ends with an error. */
class Reader {
  readonly #process: ChildProcess;
  #text = '';

  constructor(path: string) {
    const args = [`if=${path}`, 'bs=4096', 'count=1', 'iflag=direct', 'status=none'];
    this.#process = spawn('dd', args, { stdio: ['ignore', 'pipe', 'ignore'] });
    this.#process.stdout?.setEncoding('latin1').on('data', (data: string) => {
      this.#text += data;
    });
  }

  get hasEnded(): boolean {
    return this.#process.exitCode !== null || this.#process.signalCode !== null;
  }

  kill(): void {
    this.#process.kill('SIGKILL');
  }

  /** What it read; null: it could not. */
  async ended(): Promise<string | null> {
    if (!this.hasEnded) await once(this.#process, 'close', { signal: AbortSignal.timeout(PROMPT_MS) });
    return this.#process.exitCode === 0 ? this.#text : null;
  }

  /** Returns once it waits for the device: uninterruptibly, so that not even a signal ends it. */
  async waits(): Promise<this> {
    const state = async () => /^State:\s+(\S)/m.exec(await readFile(`/proc/${this.#process.pid}/status`, 'utf8'))?.[1];
    await waitUntil('the reader waits', async () => (await state()) === 'D', PROMPT_MS);
    return this;
  }
}

/** Opens the device and keeps it open, as QEMU does, until its scope ends. */
async function holderOf(path: string): Promise<{ pid: number | undefined; end(): Promise<void> }> {
  const holder = spawn('sh', ['-c', `exec 3<>${path}; echo open; read -r _`], { stdio: ['pipe', 'pipe', 'inherit'] });
  await once(holder.stdout, 'data');
  return {
    pid: holder.pid,
    async end() {
      const closed = once(holder, 'close', { signal: AbortSignal.timeout(PROMPT_MS) });
      holder.stdin.end();
      await closed;
    },
  };
}

async function promptly<T>(what: string, work: Promise<T>): Promise<T> {
  const late = delay(PROMPT_MS, undefined, { ref: false }).then(() => assert.fail(`${what} waits`));
  return await Promise.race([work, late]);
}

for (const format of ['plain', 'luksv2', 'luks'] as const) {
  describe(`a suspended ${format} mapping`, { timeout: 300_000 }, () => {
    const encryptor = (): Encryptor =>
      format === 'luks' ? kernelLuksEncryptor(lab.encryptor, lab.mappings, options) : lab.encryptorOf(format);
    const suspend = (disk: DiskSpec) => encryptor().suspend?.(disk);
    const resume = ({ disk, medium, key }: Case, other = key) => encryptor().resume?.(disk, medium, other);

    /** A disk that is unlocked and shows the marker. */
    async function fresh(): Promise<Case> {
      const disk = someDisk({ storage: 'lvm', encryption: format, sizeBytes: 16 * MIB });
      const key = Secret.generate();
      await makeDisk(lab, disk, key);
      const medium = await mediumOf(lab.driver('lvm'), disk);
      const path = await encryptor().unlock(disk, medium, key);
      await writeFile(path, MARKER, { flag: 'r+' });
      return { disk, medium, key, path, name: lab.mappings.nameOf(disk) };
    }

    async function expectForgotten({ name }: Case): Promise<void> {
      const found = (await cryptMappings()).find((mapping) => mapping.name === name);
      assert.deepEqual([found?.suspended, found?.hasKey], [true, false], found?.key);
      assert.deepEqual(await diskKeysInKeyrings(), []);
    }

    async function expectShows({ path, name }: Case): Promise<void> {
      const found = (await cryptMappings()).find((mapping) => mapping.name === name);
      assert.deepEqual([found?.suspended, found?.hasKey], [false, true]);
      assert.ok((await new Reader(path).ended())?.startsWith(MARKER));
    }

    async function expectClosed({ disk, name, path }: Case): Promise<void> {
      tell('udevadm', 'settle');
      await waitUntil('the mapping is gone', async () => (await lab.mappings.find(name)) === null, PROMPT_MS);
      assert.equal(existsSync(path), false);
      assert.doesNotMatch(tell('dmsetup', 'table', '--showkeys').text, new RegExp(disk.id));
    }

    test('has no key; what reads it waits, and goes on when the key is back', async () => {
      const one = await fresh();
      await suspend(one.disk);
      await expectForgotten(one);
      const reader = await new Reader(one.path).waits();
      await suspend(one.disk);
      await expectForgotten(one);
      await resume(one);
      assert.ok((await reader.ended())?.startsWith(MARKER));
      await resume(one);
      await expectShows(one);
      await encryptor().lock(one.disk);
      await expectClosed(one);
    });

    if (format !== 'plain') {
      test('takes no other key, and waits on', async () => {
        const one = await fresh();
        await suspend(one.disk);
        await assert.rejects(async () => resume(one, Secret.generate()), code('disk-wrong-key'));
        await expectForgotten(one);
        await resume(one);
        await expectShows(one);
        await encryptor().lock(one.disk);
      });
    }

    test('is closed at once when nothing has it open', async () => {
      const one = await fresh();
      await suspend(one.disk);
      await promptly('the lock', encryptor().lock(one.disk));
      await expectClosed(one);
    });

    test('that something holds open and waits for is closed: what waits fails, and can end', async () => {
      const one = await fresh();
      const holder = await holderOf(one.path);
      await suspend(one.disk);
      const reader = await new Reader(one.path).waits();
      reader.kill();
      await delay(500);
      assert.equal(reader.hasEnded, false, 'the reader does not wait: this shows nothing');
      await promptly('the lock', encryptor().lock(one.disk));
      assert.equal(await reader.ended(), null);
      assert.doesNotMatch(tell('dmsetup', 'table', '--showkeys').text, / crypt /);
      await holder.end();
      await expectClosed(one);
    });

    test('that is told to fail lets its holder end, and is closed then', async () => {
      const [one, other] = [await fresh(), await fresh()];
      await suspend(one.disk);
      await suspend(other.disk);
      const reader = await new Reader(one.path).waits();
      await lab.mappings.failSuspended('Testing', ({ diskId }) => diskId === one.disk.id);
      assert.equal(await reader.ended(), null);
      await expectForgotten(other);
      for (const each of [one, other]) {
        await promptly('the lock', encryptor().lock(each.disk));
        await expectClosed(each);
      }
    });

    test('outlives its service; the next finds it so, and gives it its key', async () => {
      const one = await fresh();
      const holder = await holderOf(one.path);
      await suspend(one.disk);
      const next = await diskLab();
      const found = await next.mappings.find(one.name);
      assert.deepEqual([found?.isSuspended, (await next.mappings.opened()).has(one.name)], [true, true]);
      await resume(one);
      await expectShows(one);
      await holder.end();
      await encryptor().lock(one.disk);
      await next[Symbol.asyncDispose]();
    });

    test('holds up nobody else: volumes are made, listed and removed, other disks opened and closed', async () => {
      const one = await fresh();
      await suspend(one.disk);
      const other = await promptly('making another disk', fresh());
      await promptly('closing it', encryptor().lock(other.disk));
      await promptly('removing it', lab.driver('lvm').delete(other.disk));
      await resume(one);
      await encryptor().lock(one.disk);
    });
  });
}
