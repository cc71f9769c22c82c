import assert from 'node:assert/strict';
import { existsSync, readdirSync, statSync, truncateSync } from 'node:fs';
import { open, readFile, writeFile } from 'node:fs/promises';
import { basename, dirname } from 'node:path';
import { after, before, describe, test } from 'node:test';
import type { DiskSpec } from '#core/disk.ts';
import { NightlatchError } from '#core/errors.ts';
import { type DiskId, newId } from '#core/ids.ts';
import { Secret } from '#core/secret.ts';
import { GIB, MIB } from '#core/sizes.ts';
import { readUpTo, writeAll } from '#host/files.ts';
import { pathOf, placeOf } from '#host/storage/attachment.ts';
import type { DiskAttachment } from '#host/storage/storage-driver.ts';
import {
  type DiskLab,
  diskLab,
  formatsUnderTest,
  holds,
  isBlockDevice,
  isClearTested,
  makeDisk,
  makeImage,
  mediumOf,
  patienceWith,
  rbd,
  sizeOf,
  smallTmpfs,
  someDisk,
  storageUnderTest,
  tell,
  withPlaintext,
} from '#test/support/disk-lab.ts';
import { pool } from '#test/support/pool.ts';

/** Bytes that a medium takes. */
function roomOf(attachment: DiskAttachment): number {
  if (!('rbd' in attachment)) return statSync(attachment.path).blocks * 512;
  return JSON.parse(rbd('du', '--format', 'json', placeOf(attachment))).images.at(-1).used_size;
}

function cutShort(attachment: DiskAttachment, bytes: number): void {
  if ('rbd' in attachment) rbd('resize', '--no-progress', '--allow-shrink', '--size', `${bytes}B`, placeOf(attachment));
  else truncateSync(attachment.path, bytes);
}

const code = (expected: string) => (error: unknown) => error instanceof NightlatchError && error.code === expected;

for (const storage of storageUnderTest) {
  for (const encryption of [...(isClearTested ? [null] : []), ...formatsUnderTest]) {
    describe(`a storage driver (${storage}, ${encryption ?? 'not encrypted'})`, {
      timeout: 120_000 * patienceWith(storage),
    }, () => {
      let lab: DiskLab;
      const key = Secret.generate();
      /** Without a header, nothing on the medium tells whether it is there, or whose. */
      const hasHeader = encryption !== null && encryption !== 'plain';
      const some = (wanted: Partial<DiskSpec> = {}) => someDisk({ storage, encryption, ...wanted });
      before(async () => {
        lab = await diskLab();
      });
      after(async () => lab[Symbol.asyncDispose]());

      test('the usable size is the requested size, to the byte', async () => {
        for (const sizeBytes of [512, MIB, 16 * MIB + 512, 10 * GIB]) {
          const disk = some({ sizeBytes });
          await makeDisk(lab, disk, key);
          assert.equal(await withPlaintext(lab, disk, key, sizeOf), sizeBytes);
          await lab.driver(storage).delete(disk);
        }
      });

      test('a fresh disk takes room for its header and no more; a block device as much as it is large', async () => {
        if (isBlockDevice(storage)) return assert.equal(lab.driver(storage).capabilities.blockDevice, true);
        const disk = some({ sizeBytes: 100 * GIB });
        await makeDisk(lab, disk, key);
        assert.ok(roomOf(lab.driver(storage).attachment(disk)) < 5 * MIB);
      });

      test('creating again starts over', async () => {
        const disk = some();
        await makeDisk(lab, disk, key);
        await withPlaintext(lab, disk, key, (path) => writeFile(path, 'MARKER', { flag: 'r+' }));
        await lab.driver(storage).create(disk, null);
        if (encryption !== null) {
          const medium = await mediumOf(lab.driver(storage), disk);
          const encryptor = lab.encryptorOf(encryption);
          if (hasHeader) await assert.rejects(encryptor.inspect(disk, medium), code('disk-header-missing'));
          await encryptor.format(disk, medium, key);
        }
        await withPlaintext(lab, disk, key, async (path) => assert.equal(await holds(path, 'MARKER'), false));
      });

      test('a medium lies where an operator looks for it', async () => {
        const roles = {
          root: 'disk',
          ephemeral: 'disk.eph1',
          swap: 'disk.swap',
          'config-drive': 'disk.config',
          memory: 'memory',
        };
        for (const [role, name] of Object.entries(roles)) {
          const disk = some({ role: role as DiskSpec['role'], ordinal: role === 'ephemeral' ? 1 : 0 });
          const attachment = lab.driver(storage).attachment(disk);
          const volume = `/dev/${process.env.NIGHTLATCH_TEST_VOLUME_GROUP}/${disk.ownerId}_${name}`;
          const file = `${lab.disksDirectory}/${disk.ownerId}/${name}`;
          const places = { lvm: volume, rbd: `${pool?.name}/${disk.ownerId}_${name}`, raw: file, qcow2: file };
          assert.equal(placeOf(attachment), places[storage]);
          assert.equal(attachment.format, storage === 'qcow2' ? 'qcow2' : 'raw');
        }
      });

      test('deleting removes the disk, and the folder with the last one; a repeat is fine', async () => {
        const first = some();
        const second = some({ ownerId: first.ownerId, ordinal: 1, id: newId<DiskId>() });
        const driver = lab.driver(storage);
        for (const disk of [first, second]) await driver.create(disk, null);
        const folder = dirname(placeOf(driver.attachment(first)));
        const names = () => (storage === 'rbd' ? rbd('ls', folder).split('\n') : readdirSync(folder));
        const isShared = isBlockDevice(storage) || storage === 'rbd';
        const left = () => names().filter((name) => !isShared || name.startsWith(first.ownerId));
        await driver.delete(first);
        await driver.delete(first);
        assert.deepEqual(left(), [basename(placeOf(driver.attachment(second)))]);
        await driver.delete(second);
        await driver.delete(second);
        if (isShared) assert.deepEqual(left(), []);
        else assert.equal(existsSync(folder), false);
      });

      test('a medium that is gone or cut short has no header region', async () => {
        const disk = some();
        const driver = lab.driver(storage);
        const expected = isBlockDevice(storage) && !hasHeader ? 'disk-missing' : 'disk-header-missing';
        await assert.rejects(driver.headerRegion(disk), code(expected));
        if (isBlockDevice(storage)) return;
        await driver.create(disk, null);
        cutShort(driver.attachment(disk), 4096);
        await assert.rejects(driver.headerRegion(disk), code('disk-header-missing'));
      });

      test('an overlay shows its image and then zeros; a driver without overlays takes none', async () => {
        const driver = lab.driver(storage);
        const image = await makeImage(lab, 3 * MIB + 512);
        const disk = some({ role: 'root' });
        if (!driver.capabilities.copyOnWrite.includes(disk.encryption))
          return await assert.rejects(driver.create(disk, { imageId: newId(), path: image }), /no backing file/);
        await makeDisk(lab, disk, key, image);
        const expected = Buffer.concat([await readFile(image)], disk.sizeBytes);
        await withPlaintext(lab, disk, key, async (path) => {
          assert.ok((await readFile(path)).equals(expected));
          await writeFile(path, 'MARKER', { flag: 'r+' });
        });
        expected.write('MARKER');
        await withPlaintext(lab, disk, key, async (path) => assert.ok((await readFile(path)).equals(expected)));
        assert.equal(await holds(image, 'MARKER'), false);
      });

      test('growing keeps what is there and gives exactly the new size', async () => {
        const driver = lab.driver(storage);
        const disk = some({ sizeBytes: 16 * MIB });
        await makeDisk(lab, disk, key);
        await withPlaintext(lab, disk, key, (path) => writeFile(path, 'MARKER', { flag: 'r+' }));
        // Far enough for a qcow2 image to need more tables.
        // The kernel encrypts block devices in sectors of 4096 bytes where the disk is whole ones.
        const larger = { ...disk, sizeBytes: 2 * GIB + (isBlockDevice(storage) ? 4096 : 512) };
        await driver.grow(larger, disk.sizeBytes);
        await driver.grow(larger, disk.sizeBytes);
        const at = async (path: string, position: number, bytes?: string) => {
          await using file = await open(path, 'r+');
          if (bytes !== undefined) await writeAll(file, Buffer.from(bytes), position);
          return (await readUpTo(file, 6, position)).toString('latin1');
        };
        await withPlaintext(lab, larger, key, async (path) => {
          assert.equal(sizeOf(path), larger.sizeBytes);
          assert.equal(await at(path, 0), 'MARKER');
          if (encryption === null) assert.equal(await at(path, disk.sizeBytes), '\0'.repeat(6));
          await at(path, larger.sizeBytes - 6, 'AT-END');
        });
        await withPlaintext(lab, larger, key, async (path) => {
          assert.equal(await at(path, larger.sizeBytes - 6), 'AT-END');
          assert.equal(await at(path, 0), 'MARKER');
        });
        if (storage !== 'qcow2') return;
        assert.equal(tell('qemu-img', 'info', pathOf(driver.attachment(larger))).status, 0);
      });

      test('a copy is the same medium, a second time too, and shares nothing with what it is a copy of', async () => {
        const driver = lab.driver(storage);
        const source = some();
        await makeDisk(lab, source, key);
        await withPlaintext(lab, source, key, async (path) => {
          await using file = await open(path, 'r+');
          await writeAll(file, Buffer.from('MARKER'), 0);
          await writeAll(file, Buffer.from('AT-END'), source.sizeBytes - 6);
        });
        const copy = some({ role: 'volume-snapshot' });
        for (const change of ['ONCE', 'TWICE']) {
          await driver.copy(driver.attachment(source), copy);
          await withPlaintext(lab, copy, key, async (path) => {
            const whole = await readFile(path);
            assert.equal(whole.length, source.sizeBytes);
            assert.equal(whole.toString('latin1', 0, 6), 'MARKER');
            assert.equal(whole.toString('latin1', source.sizeBytes - 6), 'AT-END');
            await writeFile(path, change, { flag: 'r+' });
          });
        }
        await withPlaintext(lab, source, key, async (path) =>
          assert.equal((await readFile(path)).toString('latin1', 0, 6), 'MARKER'),
        );
        await driver.delete(source);
        await withPlaintext(lab, copy, key, async (path) =>
          assert.equal((await readFile(path)).toString('latin1', 0, 5), 'TWICE'),
        );
        await driver.delete(copy);
        if (storage === 'rbd')
          assert.equal(rbd('trash', 'ls', '--all', pool?.name ?? ''), '', 'what they shared stays');
      });

      test('a copy takes no more room than what it is a copy of, and no longer for what was never written', async () => {
        if (isBlockDevice(storage)) return assert.equal(lab.driver(storage).capabilities.blockDevice, true);
        const driver = lab.driver(storage);
        const [source, copy] = [some({ sizeBytes: 100 * GIB }), some({ sizeBytes: 100 * GIB })];
        await makeDisk(lab, source, key);
        await driver.copy(driver.attachment(source), copy);
        assert.ok(roomOf(driver.attachment(copy)) < 5 * MIB);
        for (const disk of [source, copy]) await driver.delete(disk);
      });

      test('a copy that has no room gives disk-full, leaves its source alone and keeps nothing', async () => {
        const source = some({ sizeBytes: 4 * MIB });
        await makeDisk(lab, source, key);
        const from = lab.driver(storage).attachment(source);
        if (storage === 'rbd') return assert.ok(roomOf(from) < 5 * MIB, 'a pool gives no room when a disk is made');
        if (isBlockDevice(storage)) {
          if (process.env.NIGHTLATCH_TEST_THIN_POOL) return;
          const large = some({ sizeBytes: 1024 * GIB });
          await assert.rejects(lab.driver(storage).copy(from, large), code('disk-full'));
          return assert.equal(existsSync(pathOf(lab.driver(storage).attachment(large))), false);
        }
        await withPlaintext(lab, source, key, (path) => writeFile(path, Buffer.alloc(4 * MIB, 'x'), { flag: 'r+' }));
        await using small = await smallTmpfs('size=1m');
        await using full = await diskLab(small.path);
        await assert.rejects(full.driver(storage).copy(from, some({ sizeBytes: 4 * MIB })), code('disk-full'));
        assert.deepEqual(readdirSync(small.path), []);
        await withPlaintext(lab, source, key, async (path) => assert.ok((await readFile(path)).includes('xxxx')));
        await lab.driver(storage).delete(source);
      });

      test('a full host gives disk-full and keeps nothing', async () => {
        if (storage === 'rbd') return;
        if (isBlockDevice(storage)) {
          // More than the whole volume group of the tests has.
          if (process.env.NIGHTLATCH_TEST_THIN_POOL) return;
          const disk = some({ sizeBytes: 1024 * GIB });
          await assert.rejects(lab.driver(storage).create(disk, null), code('disk-full'));
          return assert.equal(existsSync(pathOf(lab.driver(storage).attachment(disk))), false);
        }
        // Two inodes: the root folder's and one more, which is not enough for a folder and a file.
        await using small = await smallTmpfs('size=16m,nr_inodes=2');
        await using full = await diskLab(small.path);
        await assert.rejects(full.driver(storage).create(some(), null), code('disk-full'));
        assert.deepEqual(readdirSync(small.path), []);
      });
    });
  }
}

if (storageUnderTest.includes('qcow2')) {
  test('encrypted qcow2 disks share nothing, though all begin as copies of one skeleton', async () => {
    await using lab = await diskLab();
    const disks = [1, 2, 3].map(() => someDisk({ storage: 'qcow2' }));
    const keys = disks.map(() => Secret.generate());
    await Promise.all(disks.map((disk, i) => makeDisk(lab, disk, keys[i] as Secret)));
    const media = await Promise.all(disks.map((disk) => mediumOf(lab.driver('qcow2'), disk)));
    const facts = await Promise.all(disks.map((disk, i) => lab.encryptor.inspect(disk, media[i] as (typeof media)[0])));
    assert.equal(new Set(facts.map(({ uuid }) => uuid)).size, disks.length);
    const skeletonKey = Secret.adopt(Buffer.from('skeleton'));
    for (const [i, disk] of disks.entries()) {
      for (const key of [skeletonKey, ...keys.filter((_, other) => other !== i)]) {
        await assert.rejects(lab.encryptor.unlock(disk, media[i] as (typeof media)[0], key), code('disk-wrong-key'));
      }
    }
    assert.deepEqual(readdirSync(lab.cacheDirectory), ['luks-skeleton.qcow2']);
  });

  test('a full host while the skeleton is copied gives disk-full and keeps nothing', async () => {
    await using lab = await diskLab();
    await lab.driver('qcow2').create(someDisk({ storage: 'qcow2' }), null);
    await using small = await smallTmpfs('size=1m');
    await using full = await diskLab(small.path, lab.cacheDirectory);
    await assert.rejects(full.driver('qcow2').create(someDisk({ storage: 'qcow2' }), null), code('disk-full'));
    assert.deepEqual(readdirSync(small.path), []);
  });
}
