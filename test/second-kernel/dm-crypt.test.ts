import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { readFile, writeFile } from 'node:fs/promises';
import { after, before, describe, test } from 'node:test';
import type { DiskSpec } from '#core/disk.ts';
import { NightlatchError } from '#core/errors.ts';
import { Secret } from '#core/secret.ts';
import { MIB } from '#core/sizes.ts';
import { checkCipher } from '#host/encryption/dm-crypt/probe.ts';
import type { Medium } from '#host/encryption/encryptor.ts';
import { pathOf } from '#host/storage/attachment.ts';
import { type DiskLab, diskLab, holds, makeDisk, mediumOf, someDisk, tell } from '#test/support/disk-lab.ts';

const code = (expected: string) => (error: unknown) => error instanceof NightlatchError && error.code === expected;
let lab: DiskLab;
before(async () => {
  lab = await diskLab();
});
after(async () => lab[Symbol.asyncDispose]());

for (const format of ['plain', 'luksv2'] as const) {
  describe(`a ${format} mapping`, () => {
    async function fresh(sizeBytes = 16 * MIB): Promise<{ disk: DiskSpec; medium: Medium; key: Secret; name: string }> {
      const disk = someDisk({ storage: 'lvm', encryption: format, sizeBytes });
      const key = Secret.generate();
      await makeDisk(lab, disk, key);
      return { disk, medium: await mediumOf(lab.driver('lvm'), disk), key, name: lab.mappings.nameOf(disk) };
    }
    const table = (name: string) => tell('dmsetup', 'table', name).text;
    const encryptor = () => lab.encryptorOf(format);

    test('is of the disk’s size, its sectors as large as that allows', async () => {
      for (const [sizeBytes, sector] of [
        [16 * MIB, / sector_size:4096/],
        [16 * MIB + 512, /^(?!.*sector_size)/],
      ] as const) {
        const { disk, medium, key, name } = await fresh(sizeBytes);
        await encryptor().unlock(disk, medium, key);
        assert.match(table(name), new RegExp(`^0 ${sizeBytes / 512} crypt aes-xts-plain64 `));
        assert.match(table(name), sector);
        await encryptor().lock(disk);
      }
    });

    test('after the lock the kernel has no key of it, and the medium no plaintext', async () => {
      const { disk, medium, key, name } = await fresh();
      const path = await encryptor().unlock(disk, medium, key);
      await writeFile(path, 'MARKER-OF-THE-GUEST', { flag: 'r+' });
      const volumeKey = tell('dmsetup', 'table', '--showkeys', name).text.split(' ')[4] ?? '';
      assert.match(volumeKey, format === 'plain' ? /^[0-9a-f]{128}$/ : /^:64:logon:cryptsetup:/);
      await encryptor().lock(disk);
      const after = tell('dmsetup', 'table', '--showkeys').text + readFileSync('/proc/keys', 'utf8');
      assert.equal(after.includes(volumeKey), false);
      assert.doesNotMatch(after, /crypt/);
      assert.equal(existsSync(path), false);
      assert.equal(await holds(pathOf(medium.attachment), 'MARKER-OF-THE-GUEST'), false);
    });

    test('that something still holds open loses its key all the same', async () => {
      const { disk, medium, key, name } = await fresh();
      const path = await encryptor().unlock(disk, medium, key);
      const holder = spawn('sh', ['-c', `exec 3<${path}; echo open; read -r _`], {
        stdio: ['pipe', 'pipe', 'inherit'],
      });
      await new Promise((resolve) => holder.stdout.once('data', resolve));
      await encryptor().lock(disk);
      assert.doesNotMatch(tell('dmsetup', 'table', '--showkeys').text, /crypt/);
      await assert.rejects(readFile(path));
      holder.stdin.end();
      await new Promise((resolve) => holder.once('close', resolve));
      tell('udevadm', 'settle');
      assert.equal(
        (await lab.mappings.list()).some((mapping) => mapping.name === name),
        false,
      );
    });

    test('outlives its service, is listed with its server, and is closed by the next', async () => {
      const { disk, medium, key, name } = await fresh();
      await encryptor().unlock(disk, medium, key);
      const next = await diskLab();
      const mapping = await next.mappings.find(name);
      const isOpened = (await next.mappings.opened()).has(name);
      assert.deepEqual([mapping?.ownerId, mapping?.diskId, isOpened], [disk.ownerId, disk.id, false]);
      await next.encryptorOf(format).lock(disk);
      assert.equal(await lab.mappings.find(name), null);
      await next[Symbol.asyncDispose]();
    });
  });
}

test('a mapping whose header is not the one of the medium is refused, and closed again', async () => {
  const [disk, other] = [1, 2].map(() => someDisk({ storage: 'lvm', encryption: 'luksv2', sizeBytes: 16 * MIB }));
  if (!disk || !other) throw new Error('two disks');
  using key = Secret.generate();
  for (const each of [disk, other]) await makeDisk(lab, each, key);
  const { header } = await mediumOf(lab.driver('lvm'), disk);
  const { attachment } = await mediumOf(lab.driver('lvm'), other);
  await assert.rejects(lab.encryptorOf('luksv2').unlock(disk, { header, attachment }, key), code('mapping-unexpected'));
  assert.equal(await lab.mappings.find(lab.mappings.nameOf(disk)), null);
});

test('a cipher that the kernel lacks is named, and nothing is left of the attempt', async () => {
  await checkCipher('aes-xts-plain64', 512);
  await assert.rejects(checkCipher('serpent-xts-plain64', 512), (error) => {
    assert.ok(code('device-mapper-unusable')(error));
    return /serpent-xts-plain64/.test(String(error));
  });
  assert.doesNotMatch(tell('dmsetup', 'ls').text, /probe/);
});
