import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { test } from 'node:test';
import fc from 'fast-check';
import { mountAt, parseMountInfo } from '#host/mount-info.ts';

/** Writes a line as the kernel does (fs/proc_namespace.c, `show_mountinfo`). */
function line(path: string, type: string, optional: readonly string[]): string {
  const mangled = path.replace(/[ \t\n\\]/g, (char) => `\\${char.charCodeAt(0).toString(8).padStart(3, '0')}`);
  return ['36', '35', '0:33', '/', mangled, 'rw,nosuid', ...optional, '-', type, 'source', 'rw'].join(' ');
}

test('every path and type comes back', () => {
  const path = fc.string({ unit: 'grapheme' }).map((name) => `/${name.replaceAll('\0', '')}`);
  const optional = fc.array(fc.constantFrom('shared:1', 'master:7', 'propagate_from:2', 'unbindable'), {
    maxLength: 3,
  });
  const mounts = fc.array(fc.tuple(path, fc.constantFrom('tmpfs', 'fuse', 'fuse.sshfs', 'ext4'), optional));
  fc.assert(
    fc.property(mounts, (all) => {
      const read = parseMountInfo(`${all.map((mount) => line(...mount)).join('\n')}\n`);
      assert.deepEqual(
        read,
        all.map(([path, type]) => ({ device: '0:33', path, type })),
      );
    }),
  );
});

test('any text is read without an error', () => {
  fc.assert(fc.property(fc.string({ unit: 'binary' }), (text) => Array.isArray(parseMountInfo(text))));
});

test('the last mount on a path covers those before it', () => {
  const mounts = parseMountInfo([line('/a', 'ext4', []), line('/a', 'fuse', []), line('/b', 'tmpfs', [])].join('\n'));
  assert.equal(mountAt(mounts, '/a')?.type, 'fuse');
  assert.equal(mountAt(mounts, '/c'), null);
});

test('what the kernel tells of this process is read', async () => {
  const mounts = parseMountInfo(await readFile('/proc/self/mountinfo', 'utf8'));
  assert.equal(mountAt(mounts, '/proc')?.type, 'proc');
});
