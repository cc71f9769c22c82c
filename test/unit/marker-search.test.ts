import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { mkdir, mkdtemp, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import fc from 'fast-check';
import { searchFiles, searchMemory } from '#cli/tour/marker-search.ts';

const CHUNK = 4 * 1024 * 1024;
const NEEDLE = Buffer.from('nightlatch-0123456789abcdef');

let folder: string;
before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'nightlatch-search-'));
});
after(() => rm(folder, { recursive: true, force: true }));

/** A new folder with one file, in a folder `disks` of its own, that holds the needle at these places. */
async function fileWith(size: number, places: readonly number[]): Promise<string> {
  const home = await mkdtemp(join(folder, 'case-'));
  await mkdir(join(home, 'disks'));
  const bytes = Buffer.alloc(size);
  for (const place of places) NEEDLE.copy(bytes, place);
  await writeFile(join(home, 'disks/disk'), bytes);
  return home;
}

describe('the search for markers', () => {
  it('finds a marker wherever it lies, also across the border of two chunks', async () => {
    const nearBorder = fc.integer({ min: CHUNK - 2 * NEEDLE.length, max: CHUNK + NEEDLE.length });
    const places = fc.oneof(nearBorder, fc.integer({ min: 0, max: CHUNK }), fc.constant(2 * CHUNK - NEEDLE.length));
    await fc.assert(
      fc.asyncProperty(places, async (place) => {
        const home = await fileWith(2 * CHUNK, [place]);
        assert.deepEqual(await searchFiles(home, NEEDLE), {
          files: 1,
          bytes: new Map([['disks', 2 * CHUNK]]),
          holding: [join(home, 'disks/disk')],
        });
        await rm(home, { recursive: true });
      }),
      { numRuns: 25 },
    );
  });

  it('does not take a part of a marker for a marker', async () => {
    const home = await fileWith(CHUNK, [CHUNK - NEEDLE.length + 1]);
    assert.deepEqual((await searchFiles(home, NEEDLE)).holding, []);
  });

  it('counts files and bytes, and follows no symbolic link', async () => {
    const home = await fileWith(10, []);
    await writeFile(join(home, 'service.log'), 'seven b');
    await symlink('/etc/passwd', join(home, 'link'));
    const found = await searchFiles(home, NEEDLE);
    assert.deepEqual([found.files, found.bytes.get('disks'), found.bytes.get('.')], [2, 10, 7]);
  });

  it('finds a marker in the memory of a process', async () => {
    const kept = Buffer.from(`kept-${randomBytes(12).toString('hex')}`);
    const hits = await searchMemory(process.pid, kept);
    assert.ok(hits !== null && hits > 0);
  });
});
