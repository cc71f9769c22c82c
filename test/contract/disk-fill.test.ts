import assert from 'node:assert/strict';
import { mkdtempSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { open, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { CONFIG_DRIVE_BYTES } from '#core/config-drive.ts';
import type { ConfigDriveFile, DiskContent, DiskSpec } from '#core/disk.ts';
import { NightlatchError } from '#core/errors.ts';
import { type HostPath, type ImageId, newId } from '#core/ids.ts';
import { Secret } from '#core/secret.ts';
import { GIB, MIB } from '#core/sizes.ts';
import { pathOf } from '#host/storage/attachment.ts';
import { checkImageFits, fillDisk } from '#host/storage/fill.ts';
import {
  type DiskLab,
  diskLab,
  formatsUnderTest,
  isBlockDevice,
  makeDisk,
  makeImage,
  patienceWith,
  sizeOf,
  someDisk,
  storageUnderTest,
  tell,
  withPlaintext,
} from '#test/support/disk-lab.ts';

const code = (expected: string) => (error: unknown) => error instanceof NightlatchError && error.code === expected;
const NOISE = Buffer.alloc(MIB, 'noise');

for (const storage of storageUnderTest) {
  for (const encryption of [null, ...formatsUnderTest]) {
    describe(`filling a disk (${storage}, ${encryption ?? 'not encrypted'})`, {
      timeout: 120_000 * patienceWith(storage),
    }, () => {
      let lab: DiskLab;
      const key = Secret.generate();
      const some = (wanted: Partial<DiskSpec>) => someDisk({ storage, encryption, ...wanted });
      before(async () => {
        lab = await diskLab();
      });
      after(async () => lab[Symbol.asyncDispose]());

      const isZeroed = () => encryption === null || lab.driver(storage).capabilities.zeroUntilWritten;

      /** As the host does it: create, format, unlock, fill, lock. */
      async function filled(
        disk: DiskSpec,
        content: DiskContent,
        imageFile: HostPath | null = null,
      ): Promise<DiskSpec> {
        const overlays = lab.driver(storage).capabilities.copyOnWrite.includes(encryption);
        await makeDisk(lab, disk, key, overlays ? imageFile : null);
        if (imageFile !== null && overlays) return disk;
        const { runDirectory } = lab;
        await withPlaintext(lab, disk, key, (path) =>
          fillDisk(disk, content, path, { sourceFile: imageFile, isZeroed: isZeroed(), runDirectory }),
        );
        return disk;
      }
      const look = <T>(disk: DiskSpec, use: (path: HostPath) => T | Promise<T>) => withPlaintext(lab, disk, key, use);

      test('an image, its zeros included', async () => {
        const imageFile = await makeImage(lab, 12 * MIB + 512);
        const disk = await filled(some({ role: 'root' }), { kind: 'image', imageId: newId<ImageId>() }, imageFile);
        const image = await readFile(imageFile);
        await look(disk, async (path) => {
          assert.equal(sizeOf(path), disk.sizeBytes);
          assert.ok((await readFile(path)).subarray(0, image.length).equals(image));
        });
        if (encryption === null && !isBlockDevice(storage))
          assert.ok(statSync(pathOf(lab.driver(storage).attachment(disk))).blocks * 512 < 4 * MIB);
      });

      test('what another disk holds, its zeros included, beyond the end of which nothing is promised', async () => {
        const from = some({ sizeBytes: 8 * MIB });
        const to = some({ sizeBytes: 24 * MIB });
        await makeDisk(lab, from, key);
        await makeDisk(lab, to, key);
        const written = Buffer.concat([NOISE, Buffer.alloc(2 * MIB), NOISE, Buffer.alloc(4 * MIB)]);
        await look(from, (path) => writeFile(path, written, { flag: 'r+' }));
        const content: DiskContent = { kind: 'disk', from };
        await look(from, (sourceFile) =>
          look(to, (path) =>
            fillDisk(to, content, path, { sourceFile, isZeroed: isZeroed(), runDirectory: lab.runDirectory }),
          ),
        );
        await look(to, async (path) => {
          assert.equal(sizeOf(path), to.sizeBytes);
          assert.ok((await readFile(path)).subarray(0, written.length).equals(written));
        });
        if (isZeroed() && !isBlockDevice(storage))
          assert.ok(statSync(pathOf(lab.driver(storage).attachment(to))).blocks * 512 < 8 * MIB);
      });

      test('a file system that is clean, however large', async () => {
        for (const sizeBytes of [16 * MIB, GIB, 10 * GIB]) {
          const disk = await filled(some({ sizeBytes }), { kind: 'filesystem', label: 'ephemeral0' });
          await look(disk, (path) => {
            const { status, text } = tell('e2fsck', '-fn', path);
            assert.equal(status, 0, text);
            assert.match(tell('blkid', '-p', path).text, /LABEL="ephemeral0".*TYPE="ext4"/);
            assert.match(tell('debugfs', '-R', 'stat /', path).text, /User:\s+0\s+Group:\s+0/);
            const facts = tell('debugfs', '-R', 'show_super_stats -h', path).text;
            // Blocks are at least as large as the device's sectors.
            const [count, size] = ['count', 'size'].map((name) =>
              Number(RegExp(`^Block ${name}:\\s+(\\d+)$`, 'm').exec(facts)?.[1]),
            );
            assert.equal((count ?? 0) * (size ?? 0), sizeBytes);
          });
        }
      });

      test('a file system that is clean on a medium full of noise', async () => {
        const disk = some({ sizeBytes: 64 * MIB });
        await makeDisk(lab, disk, key);
        await look(disk, async (path) => {
          await using file = await open(path, 'r+');
          for (let at = 0; at < disk.sizeBytes; at += MIB) await file.write(NOISE, 0, MIB, at);
          const source = { sourceFile: null, isZeroed: false, runDirectory: lab.runDirectory };
          await fillDisk(disk, { kind: 'filesystem', label: 'noisy' }, path, source);
          const { status, text } = tell('e2fsck', '-fn', path);
          assert.equal(status, 0, text);
          // The kernel trusts this flag and would never zero the tables; e2fsck does not look at unused ones.
          assert.doesNotMatch(tell('dumpe2fs', path).text, /ITABLE_ZEROED/);
        });
      });

      test('swap space over the whole disk', async () => {
        const disk = await filled(some({ role: 'swap', sizeBytes: 64 * MIB }), { kind: 'swap' });
        await look(disk, (path) => {
          assert.match(tell('blkid', '-p', path).text, /LABEL="swap".*TYPE="swap"/);
          // Two fields of the swap header (include/linux/swap.h): its version, and the number of its last page.
          const header = readFileSync(path).subarray(1024);
          assert.deepEqual([header.readUInt32LE(0), header.readUInt32LE(4)], [1, disk.sizeBytes / 4096 - 1]);
        });
      });

      test('a config drive whose files are there again, and zeros after it', async () => {
        const files: ConfigDriveFile[] = [
          {
            path: 'openstack/latest/user_data',
            base64: Buffer.from('#!/bin/sh\necho SECRET-USER-DATA\n').toString('base64'),
          },
          { path: 'openstack/latest/meta_data.json', base64: Buffer.from('{"uuid":"ü"}').toString('base64') },
          { path: 'ec2/a name with blanks and more than thirty-one characters.txt', base64: '' },
        ];
        const disk = await filled(some({ role: 'config-drive', sizeBytes: CONFIG_DRIVE_BYTES }), {
          kind: 'config-drive',
          files,
        });
        await look(disk, (path) => {
          assert.match(tell('blkid', '-p', path).text, /LABEL="config-2".*TYPE="iso9660"/);
          const into = mkdtempSync(join(lab.runDirectory, 'iso-'));
          const { status, text } = tell('xorriso', '-osirrox', 'on', '-indev', `stdio:${path}`, '-extract', '/', into);
          assert.equal(status, 0, text);
          for (const file of files) assert.equal(readFileSync(join(into, file.path)).toString('base64'), file.base64);
          const all = readFileSync(path);
          assert.equal(all.length, CONFIG_DRIVE_BYTES);
          assert.ok(all.subarray(-MIB).every((byte) => byte === 0));
        });
        assert.deepEqual(readdirSync(`${lab.runDirectory}/scratch`), []);
      });

      test('a config drive that is too small is refused', async () => {
        const files = [{ path: 'big', base64: Buffer.alloc(5 * MIB).toString('base64') }];
        const disk = some({ role: 'config-drive', sizeBytes: CONFIG_DRIVE_BYTES });
        await assert.rejects(filled(disk, { kind: 'config-drive', files }), code('too-large'));
      });

      test('nothing', async () => {
        const disk = await filled(some({}), { kind: 'blank' });
        await look(disk, (path) => assert.equal(sizeOf(path), disk.sizeBytes));
      });
    });
  }
}

test('a config drive takes no file from outside its tree', async () => {
  await using lab = await diskLab();
  const disk = someDisk({ role: 'config-drive', sizeBytes: CONFIG_DRIVE_BYTES, encryption: null });
  await lab.driver('raw').create(disk, null);
  for (const path of ['../x', '/etc/x', 'a/../../x', '', 'a//b', '.', 'a\0b']) {
    const content = { kind: 'config-drive', files: [{ path, base64: '' }] } as const;
    const source = { sourceFile: null, isZeroed: false, runDirectory: lab.runDirectory };
    await assert.rejects(fillDisk(disk, content, lab.driver('raw').attachment(disk).path, source), /relative path/);
  }
});

test('an image may be as large as its disk and not larger', async () => {
  await using lab = await diskLab();
  const imageFile = await makeImage(lab, 2 * MIB);
  const check = (sizeBytes: number) => checkImageFits(someDisk({ sizeBytes }), newId<ImageId>(), imageFile);
  await check(2 * MIB);
  await assert.rejects(check(2 * MIB - 512), code('image-invalid'));
});
