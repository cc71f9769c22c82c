import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, describe, test } from 'node:test';
import { NightlatchError } from '#core/errors.ts';
import type { HostPath } from '#core/ids.ts';
import { Secret } from '#core/secret.ts';
import { LUKS1_HEADER_BYTES, LUKS2_HEADER_BYTES } from '#core/sizes.ts';
import { LUKS2_LAYOUT } from '#host/encryption/dm-crypt/luks2.ts';
import { LUKS1_LAYOUT } from '#host/encryption/luks/encryptor.ts';
import { changes, rekeyHeader } from '#host/encryption/rekey-header.ts';
import { restoreHeader } from '#host/encryption/restore-header.ts';
import { grantPrivilege } from '#host/grant.ts';
import { headerInFile } from '#host/storage/header-file.ts';
import { someDisk } from '#test/support/disk-lab.ts';

/** Whether a header opens at every instant of its rekeying is asked of cryptsetup itself, on headers in plain files. */
const folder = mkdtempSync('/dev/shm/nightlatch-rekey-') as HostPath;
after(() => rmSync(folder, { recursive: true }));
grantPrivilege({ directories: [folder] });

const isCovering = process.env.NIGHTLATCH_TEST_DEPTH !== 'all';
const cheap = ['-q', '--hash', 'sha256', '--pbkdf-force-iterations', '1000'];
const cases = [
  { layout: LUKS1_LAYOUT, bytes: LUKS1_HEADER_BYTES, more: ['--offset', '4040'], pbkdf: [], sectors: [8, 507] },
  {
    layout: LUKS2_LAYOUT,
    bytes: LUKS2_HEADER_BYTES,
    more: ['--offset', '32768', '--sector-size', '4096'],
    pbkdf: ['--pbkdf', 'pbkdf2'],
    sectors: [64, 563],
  },
] as const;

function cryptsetup(args: readonly string[], key: Secret | null): number | null {
  const input = key?.use((bytes) => Buffer.from(bytes)) ?? '';
  return spawnSync('cryptsetup', args, { input }).status;
}

for (const { layout, bytes, more, pbkdf, sectors } of cases) {
  describe(`rekeying a ${layout.type} header`, { timeout: 240_000 }, () => {
    const path = join(folder, layout.type) as HostPath;
    const disk = someDisk();
    const header = headerInFile({ path, offset: 0, length: bytes });
    const medium = { attachment: { path, format: 'raw' }, header } as const;
    const [from, to] = [Secret.generate(), Secret.generate()];
    const opens = (key: Secret) => {
      const status = cryptsetup(['open', '--type', layout.type, '--test-passphrase', '--key-file=-', path], key);
      assert.ok(status === 0 || status === 2, `cryptsetup ended with ${status}`);
      return status === 0;
    };
    const rekey = (a = from, b = to) =>
      rekeyHeader(disk, medium, { from: a, to: b }, layout, folder, { keep: async () => {} });
    const format = () => {
      writeFileSync(path, '');
      truncateSync(path, bytes);
      const shape = ['--cipher', 'aes-xts-plain64', '--key-size', '512', ...more, ...pbkdf, ...cheap];
      assert.equal(cryptsetup(['luksFormat', '--type', layout.type, ...shape, '--key-file=-', path], from), 0);
      return readFileSync(path);
    };
    /** The old slot's part of a header, where the key material of the first slot lies. */
    const material = (whole: Buffer) => whole.subarray(sectors[0] * 512, sectors[1] * 512);
    const assertOverwritten = (before: Buffer, now: Buffer) => {
      for (let at = 0; at < material(before).length; at += 512) {
        const old = material(before).subarray(at, at + 512);
        assert.ok(
          !material(now)
            .subarray(at, at + 512)
            .equals(old),
          `sector ${at / 512} of the old slot is still there`,
        );
      }
    };

    test('leaves the new key alone, and nothing of the old key material', async () => {
      const before = format();
      await rekey();
      assert.deepEqual([opens(from), opens(to)], [false, true]);
      const now = readFileSync(path);
      assert.equal(layout.slots(now)?.length, 1);
      assertOverwritten(before, now);
      await rekey();
      assert.ok(readFileSync(path).equals(now), 'a repeat changed something');
    });

    test('of a header only what its key needs is kept, and that alone puts it back', async () => {
      const whole = format();
      const kept: Buffer[] = [];
      await rekeyHeader(disk, medium, { from, to }, layout, folder, { keep: async (bytes) => void kept.push(bytes) });
      const [bytes = Buffer.alloc(0)] = kept;
      assert.equal(bytes.length, whole.length);
      assert.ok(material(bytes).equals(Buffer.alloc(material(bytes).length)), 'nothing of the old slot');
      const inUse = bytes.reduce((sum, byte) => sum + Number(byte !== 0), 0);
      assert.ok(inUse < 300_000, `${inUse} bytes of ${bytes.length}`);
      writeFileSync(path, Buffer.alloc(bytes.length));
      await assert.rejects(
        restoreHeader(disk, medium, { header: bytes, key: from }, layout, folder),
        /does not open it/,
      );
      assert.ok(readFileSync(path).equals(Buffer.alloc(bytes.length)));
      await restoreHeader(disk, medium, { header: bytes, key: to }, layout, folder);
      assert.deepEqual([opens(from), opens(to)], [false, true]);
    });

    test('with two wrong keys, or to the same key, changes nothing', async () => {
      const before = format();
      await assert.rejects(rekey(Secret.generate(), to), (error) => {
        return error instanceof NightlatchError && error.code === 'disk-wrong-key';
      });
      await assert.rejects(rekey(from, from), /is it the new one/);
      assert.ok(readFileSync(path).equals(before));
    });

    test('of a copy makes it another header: its UUID is the id of its disk', async () => {
      format();
      const uuid = () => spawnSync('cryptsetup', ['luksUUID', path], { encoding: 'utf8' }).stdout.trim();
      await rekey();
      assert.notEqual(uuid(), disk.id);
      await rekeyHeader(disk, medium, { from: to, to: from }, layout, folder, { keep: async () => {}, isCopy: true });
      assert.equal(uuid(), disk.id);
      assert.deepEqual([opens(from), opens(to)], [true, false]);
    });

    test('that began with another new key ends with this one alone', async () => {
      format();
      const other = Secret.generate();
      const fd = join(folder, 'other');
      other.use((key) => writeFileSync(fd, key));
      assert.equal(cryptsetup(['luksAddKey', ...pbkdf, ...cheap, '--key-file=-', path, fd], from), 0);
      assert.ok(opens(other));
      await rekey();
      assert.deepEqual([opens(from), opens(other), opens(to)], [false, false, true]);
    });

    test('opens with one of the two keys whatever part of it is written, and can be gone on with from there', async () => {
      const before = format();
      const file = join(folder, 'to');
      to.use((key) => writeFileSync(file, key));
      assert.equal(cryptsetup(['luksAddKey', ...pbkdf, ...cheap, '--key-file=-', path, file], from), 0);
      const both = readFileSync(path);
      assert.equal(cryptsetup(['luksKillSlot', '-q', path, '0'], null), 0);
      const last = readFileSync(path);
      for (const [start, end, keeps] of [
        [before, both, from],
        [both, last, to],
      ] as const) {
        const parts = changes(start, end, layout);
        assert.equal(parts.length, layout.metadata.length + 1);
        const now = Buffer.from(start);
        for (const [number, part] of parts.entries()) {
          // All of the key material takes long to try, a sector at a time.
          const step = number === 0 ? 8192 : 512;
          for (const { at, bytes: written } of part) {
            for (let done = 0; done < written.length; done += step) {
              written.subarray(done, done + step).copy(now, at + done);
              if (number === 0 && isCovering && at % 65_536 !== 0) continue;
              writeFileSync(path, now);
              assert.ok(opens(keeps), `at ${at + done}: the key that must open it does not`);
              if (number === 0 ? at % 65_536 !== 0 : (at + done) % 2048 !== 0) continue;
              writeFileSync(path, now);
              await rekey();
              assert.deepEqual([opens(from), opens(to)], [false, true], `at ${at + done}: it was not gone on with`);
              assertOverwritten(before, readFileSync(path));
            }
          }
        }
        assert.ok(now.equals(end));
      }
    });
  });
}
