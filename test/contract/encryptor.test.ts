import assert from 'node:assert/strict';
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { closeSync, existsSync, openSync, readdirSync, readFileSync, statSync, writeSync } from 'node:fs';
import { readFile, writeFile } from 'node:fs/promises';
import { after, before, describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import type { DiskSpec } from '#core/disk.ts';
import { NightlatchError } from '#core/errors.ts';
import { Secret } from '#core/secret.ts';
import { LUKS1_HEADER_BYTES } from '#core/sizes.ts';
import type { Medium } from '#host/encryption/encryptor.ts';
import { findExportProcesses } from '#host/fuse-process.ts';
import { placeOf } from '#host/storage/attachment.ts';
import type { DiskAttachment } from '#host/storage/storage-driver.ts';
import {
  bytesOf,
  type DiskLab,
  diskLab,
  engineUnderTest,
  formatsUnderTest,
  holds,
  isBlockDevice,
  makeDisk,
  mediumOf,
  patienceWith,
  smallTmpfs,
  someDisk,
  storageUnderTest,
  tell,
  withPlaintext,
} from '#test/support/disk-lab.ts';
import { waitUntil } from '#test/support/wait.ts';

const WORKER = fileURLToPath(new URL('../support/disk-worker.ts', import.meta.url));
const code = (expected: string) => (error: unknown) => error instanceof NightlatchError && error.code === expected;
const digest = ({ attachment }: Medium) => createHash('sha256').update(bytesOf(attachment)).digest('hex');
const header = ({ attachment, header: { offset, length } }: Medium) =>
  bytesOf(attachment).subarray(offset, offset + length);

/** Writes over it as a stranger would; of an image in a pool only its region knows how. */
async function writeHeader({ attachment, header }: Medium, bytes: Buffer): Promise<void> {
  if ('rbd' in attachment) return await header.write([{ at: 0, bytes }]);
  const fd = openSync(attachment.path, 'r+');
  writeSync(fd, bytes, 0, bytes.length, header.offset);
  closeSync(fd);
}

const combinations = storageUnderTest.flatMap((storage) => formatsUnderTest.map((format) => ({ storage, format })));

/** Of a rekeying whose header nobody keeps. */
const unkept = { keep: async () => {} };

for (const { storage, format } of combinations) {
  const attach = format === 'luks' && engineUnderTest === 'qemu' ? 'qemu' : 'device';
  const hasHeader = format !== 'plain';
  describe(`an encryptor (${format} on ${storage}, for a guest by its ${attach})`, {
    timeout: 180_000 * patienceWith(storage),
  }, () => {
    let lab: DiskLab;
    before(async () => {
      lab = await diskLab();
    });
    after(async () => lab[Symbol.asyncDispose]());
    const encryptor = () => lab.encryptorOf(format);
    const within = (what: string, condition: () => Promise<boolean>) =>
      waitUntil(what, condition, 10_000 * patienceWith(storage));

    async function fresh(): Promise<{ disk: DiskSpec; medium: Medium; key: Secret }> {
      const disk = someDisk({ storage, encryption: format });
      const key = Secret.generate();
      await makeDisk(lab, disk, key);
      return { disk, medium: await mediumOf(lab.driver(storage), disk), key };
    }
    const exporters = async (disk: DiskSpec) =>
      (await findExportProcesses(lab.runDirectory)).filter(({ mountpoint }) => mountpoint.includes(disk.id));
    const mounted = (disk: DiskSpec) => readFileSync('/proc/self/mountinfo', 'utf8').includes(disk.id);
    async function assertLocked(disk: DiskSpec): Promise<void> {
      assert.equal(encryptor().attach, attach);
      if (attach === 'device') {
        assert.equal(existsSync(lab.mappings.pathOf(lab.mappings.nameOf(disk))), false);
        assert.doesNotMatch(tell('dmsetup', 'table', '--showkeys').text, new RegExp(disk.id));
      }
      assert.deepEqual(await exporters(disk), []);
      assert.equal(mounted(disk), false);
      assert.equal(existsSync(`${lab.runDirectory}/unlocked/${disk.id}`), false);
      assert.equal((await encryptor().unlocked()).includes(disk.id), false);
    }

    test('what is written is there again after a lock, and nowhere in clear', async () => {
      const { disk, medium, key } = await fresh();
      const marker = randomBytes(16).toString('hex');
      await withPlaintext(lab, disk, key, (path) => writeFile(path, marker, { flag: 'r+' }));
      await assertLocked(disk);
      assert.equal(bytesOf(medium.attachment).includes(marker), false);
      await withPlaintext(lab, disk, key, async (path) =>
        assert.equal((await readFile(path)).toString('latin1', 0, 32), marker),
      );
    });

    test('a wrong key opens nothing and changes nothing', async () => {
      const { disk, medium, key } = await fresh();
      const before = digest(medium);
      if (hasHeader) {
        await assert.rejects(encryptor().unlock(disk, medium, Secret.generate()), code('disk-wrong-key'));
      } else {
        // Nothing on the medium can tell a wrong key: it shows noise, and reading noise changes nothing.
        const shown = await withPlaintext(lab, disk, Secret.generate(), (path) => readFile(path));
        assert.notDeepEqual(shown, await withPlaintext(lab, disk, key, (path) => readFile(path)));
      }
      assert.equal(digest(medium), before);
      await assertLocked(disk);
    });

    test('formatting again gives a new volume key', async () => {
      const { disk, medium, key } = await fresh();
      if (!hasHeader) {
        const before = digest(medium);
        await encryptor().format(disk, medium, key);
        return assert.equal(digest(medium), before);
      }
      await withPlaintext(lab, disk, key, (path) => writeFile(path, 'MARKER', { flag: 'r+' }));
      const first = await encryptor().inspect(disk, medium);
      await encryptor().format(disk, medium, key);
      assert.notEqual((await encryptor().inspect(disk, medium)).uuid, first.uuid);
      await withPlaintext(lab, disk, key, async (path) => assert.equal(await holds(path, 'MARKER'), false));
      if (attach === 'qemu') assert.deepEqual(readdirSync(`${lab.runDirectory}/scratch`), []);
    });

    test('rekeying leaves the new key alone, what is written, and the volume key; a repeat is fine', async () => {
      const { disk, medium, key } = await fresh();
      const rekey = encryptor().rekey;
      if (!hasHeader) return assert.equal(rekey, undefined);
      const to = Secret.generate();
      const facts = await encryptor().inspect(disk, medium);
      const old = header(medium);
      await withPlaintext(lab, disk, key, (path) => writeFile(path, 'MARKER', { flag: 'r+' }));
      await encryptor().rekey?.(disk, medium, key, to, unkept);
      await assert.rejects(encryptor().unlock(disk, medium, key), code('disk-wrong-key'));
      await assertLocked(disk);
      await withPlaintext(lab, disk, to, async (path) =>
        assert.equal((await readFile(path)).toString('latin1', 0, 6), 'MARKER'),
      );
      const { uuid, activeKeySlots } = await encryptor().inspect(disk, medium);
      assert.deepEqual([uuid, activeKeySlots.length], [facts.uuid, 1]);
      // With the header of yesterday the old key opens it, as that of a backup does: the volume key is the same.
      const now = header(medium);
      await encryptor().rekey?.(disk, medium, key, to, unkept);
      assert.ok(header(medium).equals(now));
      await writeHeader(medium, old);
      await withPlaintext(lab, disk, key, async (path) =>
        assert.equal((await readFile(path)).toString('latin1', 0, 6), 'MARKER'),
      );
      await assert.rejects(
        async () => encryptor().rekey?.(disk, medium, Secret.generate(), to, unkept),
        code('disk-wrong-key'),
      );
      assert.ok(header(medium).equals(old));
      if (attach === 'qemu') assert.deepEqual(readdirSync(`${lab.runDirectory}/scratch`), []);
    });

    test('what is kept of a header puts it back, whatever lies in its place; only with its key, and only whole', async () => {
      const { restoreHeader, keptHeader } = encryptor();
      if (!hasHeader) return assert.deepEqual([restoreHeader, keptHeader], [undefined, undefined]);
      const { disk, medium, key } = await fresh();
      const to = Secret.generate();
      await withPlaintext(lab, disk, key, (path) => writeFile(path, 'MARKER', { flag: 'r+' }));
      const before = await keptHeader?.(disk, medium);
      const kept: Buffer[] = [];
      const keep = async (bytes: Buffer) => {
        assert.equal((await encryptor().inspect(disk, medium)).activeKeySlots.length, 2, 'it is kept before');
        kept.push(bytes);
      };
      await encryptor().rekey?.(disk, medium, key, to, { keep });
      const [after = Buffer.alloc(0), ...more] = kept;
      assert.equal(more.length, 0);
      assert.ok(after.equals((await keptHeader?.(disk, medium)) ?? Buffer.alloc(0)), 'it is what the medium has now');
      assert.ok(before && !before.equals(after));
      for (const wreck of [Buffer.alloc(header(medium).length), randomBytes(header(medium).length)]) {
        await writeHeader(medium, wreck);
        for (const [bytes, one] of [
          [after, key],
          [before, to],
          [after.subarray(1), to],
          [wreck, to],
        ] as const) {
          await assert.rejects(async () => restoreHeader?.(disk, medium, bytes, one), code('header-backup-unusable'));
        }
        assert.ok(header(medium).equals(wreck), 'a refusal writes nothing');
        for (let time = 0; time < 2; time++) await restoreHeader?.(disk, medium, after, to);
        await withPlaintext(lab, disk, to, async (path) =>
          assert.equal((await readFile(path)).toString('latin1', 0, 6), 'MARKER'),
        );
        await assert.rejects(encryptor().unlock(disk, medium, key), code('disk-wrong-key'));
      }
    });

    test('rekeying a disk that is open disturbs nobody', async () => {
      if (!hasHeader) return;
      const { disk, medium, key } = await fresh();
      const to = Secret.generate();
      const path = await encryptor().unlock(disk, medium, key);
      await writeFile(path, 'BEFORE', { flag: 'r+' });
      await encryptor().rekey?.(disk, medium, key, to, unkept);
      assert.equal((await readFile(path)).toString('latin1', 0, 6), 'BEFORE');
      await writeFile(path, 'AFTER!', { flag: 'r+' });
      await encryptor().lock(disk);
      await withPlaintext(lab, disk, to, async (again) =>
        assert.equal((await readFile(again)).toString('latin1', 0, 6), 'AFTER!'),
      );
    });

    test('a rekeying that is killed leaves a disk that opens, and is gone on with', async () => {
      if (!hasHeader) return;
      for (const [point, fromOpens, toOpens] of [
        ['encryptor.rekey.new-written', true, false],
        ['encryptor.rekey.added', true, true],
        ['encryptor.rekey.old-overwritten', false, true],
        ['encryptor.rekey.removed', false, true],
      ] as const) {
        const { disk, medium, key } = await fresh();
        const to = Secret.generate();
        const worker = startWorker(lab, 'rekey', disk, Secret.join([key, to]), { NIGHTLATCH_CRASH_AT: point });
        await within('the worker is killed', async () => worker.signalCode === 'SIGKILL');
        const opens = (one: Secret) =>
          withPlaintext(lab, disk, one, () => true).catch((error: unknown) => !code('disk-wrong-key')(error));
        assert.deepEqual([await opens(key), await opens(to)], [fromOpens, toOpens], point);
        await encryptor().rekey?.(disk, medium, key, to, unkept);
        await encryptor().lock(disk);
        await assert.rejects(encryptor().unlock(disk, medium, key), code('disk-wrong-key'));
        await withPlaintext(lab, disk, to, () => {});
        assert.equal((await encryptor().inspect(disk, medium)).activeKeySlots.length, 1);
      }
    });

    test('unlocking and locking can be repeated, also at the same time', async () => {
      const { disk, medium, key } = await fresh();
      const path = await encryptor().unlock(disk, medium, key);
      assert.equal(await encryptor().unlock(disk, medium, key), path);
      assert.equal((await exporters(disk)).length, attach === 'qemu' ? 1 : 0);
      assert.deepEqual(await encryptor().unlocked(), [disk.id]);
      if (attach === 'qemu') {
        const all = [encryptor().lock(disk), encryptor().unlock(disk, medium, key), encryptor().lock(disk)];
        await Promise.all(all);
      }
      await encryptor().lock(disk);
      await assertLocked(disk);
      await encryptor().lock(disk);
    });

    test('destroying makes the key useless, for ever; a repeat and a missing medium are fine', async () => {
      const { disk, medium, key } = await fresh();
      if (!hasHeader) {
        await encryptor().destroy(disk, medium);
        await encryptor().destroy(disk, medium);
        await lab.driver(storage).delete(disk);
        return await assert.rejects(encryptor().unlock(disk, medium, key));
      }
      const old = header(medium);
      await encryptor().destroy(disk, medium);
      await assert.rejects(encryptor().unlock(disk, medium, key), code('disk-header-missing'));
      await assert.rejects(encryptor().inspect(disk, medium), code('disk-header-missing'));
      const now = header(medium);
      for (let at = 0; at < old.length; at += 512) {
        const sector = old.subarray(at, at + 512);
        if (sector.some((byte) => byte !== 0)) assert.ok(!now.subarray(at, at + 512).equals(sector), `sector at ${at}`);
      }
      await encryptor().destroy(disk, medium);
      await lab.driver(storage).delete(disk);
      await encryptor().destroy(disk, medium);
      await assert.rejects(encryptor().unlock(disk, medium, key), code('disk-header-missing'));
    });

    // What follows is about how QEMU shows a disk, and of no concern to a kernel that does.
    if (attach === 'device') return;

    test('the header is what cryptsetup and QEMU say it is', async () => {
      const { disk, medium, key } = await fresh();
      const facts = await encryptor().inspect(disk, medium);
      const copy = `${lab.runDirectory}/copy`;
      await writeFile(copy, header(medium));
      const dump = tell('cryptsetup', 'luksDump', copy).text;
      assert.match(dump, new RegExp(`^UUID:\\s+${facts.uuid}$`, 'm'));
      assert.match(dump, /^Cipher name:\s+aes$/m);
      assert.match(dump, /^Cipher mode:\s+xts-plain64$/m);
      assert.match(dump, new RegExp(`^MK bits:\\s+${facts.keyBits}$`, 'm'));
      assert.match(dump, new RegExp(`^Payload offset:\\s+${facts.payloadOffsetBytes / 512}$`, 'm'));
      assert.match(dump, /^Key Slot 0: ENABLED[\s\S]*Iterations:\s+1000$/m);
      assert.equal(dump.match(/: DISABLED$/gm)?.length, 7);
      assert.deepEqual(facts.activeKeySlots, [0]);
      assert.equal(facts.payloadOffsetBytes, LUKS1_HEADER_BYTES);
      const info = tell('qemu-img', 'info', nameForQemu(medium.attachment)).text;
      assert.ok(info.includes(facts.uuid), info);
      const opened = key.use((bytes) =>
        spawnSync('cryptsetup', ['open', '--test-passphrase', '--key-file=-', copy], { input: bytes }),
      );
      assert.equal(opened.status, 0);
    });

    test('the key is in no argument and no environment', async () => {
      const { disk, medium, key } = await fresh();
      await encryptor().unlock(disk, medium, key);
      const [exporter] = await exporters(disk);
      const seen = ['cmdline', 'environ']
        .map((name) => readFileSync(`/proc/${exporter?.pid}/${name}`, 'latin1'))
        .join();
      assert.ok(seen.includes(disk.id));
      assert.equal(
        key.use((bytes) => seen.includes(bytes.toString('latin1'))),
        false,
      );
      await encryptor().lock(disk);
    });

    test('an export that was killed is listed until it is locked', async () => {
      const { disk, medium, key } = await fresh();
      const path = await encryptor().unlock(disk, medium, key);
      const [exporter] = await exporters(disk);
      process.kill(exporter?.pid ?? Number.NaN, 'SIGKILL');
      await within('nothing shows the disk', async () => (await exporters(disk)).length === 0);
      assert.throws(() => statSync(path));
      assert.deepEqual(await encryptor().unlocked(), [disk.id]);
      await encryptor().lock(disk);
      await assertLocked(disk);
      await withPlaintext(lab, disk, key, (again) => assert.equal(statSync(again).size, disk.sizeBytes));
    });

    test('a service that is killed leaves nothing readable, and the next one cleans up', async () => {
      const { disk, key } = await fresh();
      const worker = startWorker(lab, 'hold', disk, key);
      const path = (await firstLine(worker)).replace('ok ', '');
      assert.equal(statSync(path).size, disk.sizeBytes);
      assert.equal((await exporters(disk)).length, 1);
      worker.kill('SIGKILL');
      await within('nothing shows the disk', async () => (await exporters(disk)).length === 0);
      assert.throws(() => readFileSync(path));
      assert.deepEqual(await encryptor().unlocked(), [disk.id]);
      await encryptor().lock(disk);
      await assertLocked(disk);
    });

    test('a stray that outlived its service is found by what it exports, and ended', async () => {
      const { disk, medium, key } = await fresh();
      const other = await diskLabSharing(lab);
      await other.unlock(disk, medium, key);
      assert.deepEqual(await encryptor().unlocked(), [disk.id]);
      await encryptor().lock(disk);
      await assertLocked(disk);
    });

    test('a service that ends by itself leaves nothing readable', async () => {
      const { disk, key } = await fresh();
      const worker = startWorker(lab, 'unlock', disk, key);
      assert.match(await firstLine(worker), /^ok \//);
      await within(
        'the worker has ended, and nothing shows the disk',
        async () => worker.exitCode !== null && (await exporters(disk)).length === 0,
      );
      await encryptor().lock(disk);
      await assertLocked(disk);
    });

    // The worker would miss LVM's or Ceph's programs first.
    if (isBlockDevice(storage) || storage === 'rbd') return;

    test('a missing program is named, with its package', async () => {
      const { disk, key } = await fresh();
      for (const [verb, hidden, kept, expected] of [
        ['format', '/usr/sbin', '', 'program-missing cryptsetup'],
        ['filesystem', '/usr/sbin', '', 'program-missing mkfs.ext4'],
        ['unlock', '/usr/bin', '', 'program-missing setpriv'],
        ['unlock', '/usr/bin', 'setpriv', 'program-missing qemu-storage-daemon'],
      ] as const) {
        assert.equal(await firstLine(startWorker(lab, verb, disk, key, { hidden, kept })), expected);
      }
      await assertLocked(disk);
    });
  });
}

test('a full host gives disk-full, and what could not be formatted can be destroyed and deleted', async () => {
  await using small = await smallTmpfs('size=1m');
  await using lab = await diskLab(small.path);
  const disk = someDisk();
  await lab.driver('raw').create(disk, null);
  const medium = await mediumOf(lab.driver('raw'), disk);
  await assert.rejects(lab.encryptor.format(disk, medium, Secret.generate()), code('disk-full'));
  await lab.encryptor.destroy(disk, medium);
  await lab.driver('raw').delete(disk);
  assert.deepEqual(readdirSync(small.path), []);
});

function nameForQemu(attachment: DiskAttachment): string {
  if (!('rbd' in attachment)) return attachment.path;
  return `rbd:${placeOf(attachment)}:id=${attachment.rbd.user}:conf=${attachment.rbd.conf}`;
}

/** A second service on the same run directory. */
async function diskLabSharing({ runDirectory }: DiskLab) {
  const { luksEncryptor } = await import('#host/encryption/luks/encryptor.ts');
  const { FuseExports } = await import('#host/fuse-exports.ts');
  return luksEncryptor({ runDirectory, exports: new FuseExports({ runDirectory }) });
}

/** Starts the worker; `how` may cover a folder, for it alone, with one that holds no more than one program. */
function startWorker(
  lab: DiskLab,
  verb: string,
  disk: DiskSpec,
  key: Secret,
  how: { hidden?: string; kept?: string; NIGHTLATCH_CRASH_AT?: string } = {},
): ChildProcess {
  const { disksDirectory, cacheDirectory, runDirectory } = lab;
  const command = [process.execPath, WORKER, verb, disksDirectory, cacheDirectory, runDirectory, JSON.stringify(disk)];
  const { hidden, kept = '', ...environment } = how;
  const hide = hidden === undefined ? [] : ['unshare', '--mount', 'sh', '-c', HIDE, hidden, kept];
  const [program = '', ...args] = [...hide, ...command];
  const env = { ...process.env, ...environment };
  const child = spawn(program, args, { env, stdio: ['pipe', 'pipe', 'inherit'] });
  key.use((bytes) => child.stdin?.end(Buffer.from(bytes)));
  return child;
}

/** In a mount namespace of its own: /mnt and the hidden folder are covered for nobody else. */
const HIDE = `set -e; mount -t tmpfs hide /mnt; [ -z "$1" ] || cp "$0/$1" /mnt; shift; mount --bind /mnt "$0"; exec "$@"`;

async function firstLine(child: ChildProcess): Promise<string> {
  let text = '';
  for await (const chunk of child.stdout ?? []) {
    text += chunk;
    if (text.includes('\n')) break;
  }
  return text.split('\n')[0]?.trim() ?? '';
}
