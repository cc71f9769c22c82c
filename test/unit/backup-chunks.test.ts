import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { after, before, describe, test } from 'node:test';
import fc from 'fast-check';
import { openBackup, removeBackup, storeBackup } from '#backups/backup-chunks.ts';
import type { BackupStore } from '#backups/backup-store.ts';
import { directoryStore } from '#backups/directory-store.ts';
import { NightlatchError } from '#core/errors.ts';
import { type BackupId, type HostPath, newId } from '#core/ids.ts';

const MIB = 1024 * 1024;
const damaged = (error: unknown) => error instanceof NightlatchError && error.code === 'backup-damaged';

describe('backups in a directory', () => {
  let directory: string;
  let store: BackupStore;
  before(async () => {
    directory = await mkdtemp(join(tmpdir(), 'nightlatch-backups-'));
    store = directoryStore(directory as HostPath);
  });
  after(() => rm(directory, { recursive: true }));

  const keep = async (bytes: Buffer, parent: BackupId | null = null) => {
    const id = newId<BackupId>();
    return { id, stored: await storeBackup(store, id, Readable.from(pieces(bytes)), parent) };
  };
  const restore = async (id: BackupId) =>
    Buffer.concat(await Array.fromAsync((await openBackup(store, id)) as AsyncIterable<Buffer>));

  test('what was stored comes back, byte for byte, however it was cut', async () => {
    const sizes = fc.array(fc.integer({ min: 0, max: 3 * MIB }), { maxLength: 8 });
    await fc.assert(
      fc.asyncProperty(sizes, async (lengths) => {
        const bytes = Buffer.concat(
          lengths.map((length, i) => (i % 2 === 0 ? randomBytes(length) : Buffer.alloc(length))),
        );
        const { id, stored } = await keep(bytes);
        assert.equal(stored.bytes, bytes.length);
        assert.ok((await restore(id)).equals(bytes));
        await removeBackup(store, id);
      }),
      { numRuns: 15 },
    );
  });

  test('an incremental one stores what differs, and zeros are stored by nobody', async () => {
    const bytes = Buffer.concat([randomBytes(20 * MIB), Buffer.alloc(20 * MIB)]);
    const whole = await keep(bytes);
    assert.ok(whole.stored.ownBytes <= 24 * MIB);
    bytes[9 * MIB] = (bytes[9 * MIB] ?? 0) ^ 1;
    const changed = await keep(bytes, whole.id);
    assert.equal(changed.stored.ownBytes, 8 * MIB);
    const longer = await keep(Buffer.concat([bytes, Buffer.from([1])]), changed.id);
    assert.equal(longer.stored.ownBytes, 1);
    assert.ok((await restore(changed.id)).equals(bytes));
    await removeBackup(store, longer.id);
    await removeBackup(store, changed.id);
    await removeBackup(store, changed.id);
    assert.deepEqual(await readdir(directory), [whole.id]);
  });

  test('a chunk that changed, one that is gone, and a list that is none are told', async () => {
    const { id } = await keep(randomBytes(10 * MIB));
    await writeFile(join(directory, id, '00000001'), 'other bytes');
    await assert.rejects(restore(id), damaged);
    await rm(join(directory, id, '00000001'));
    await assert.rejects(restore(id), damaged);
    await writeFile(join(directory, id, 'manifest.json'), '{}');
    await assert.rejects(restore(id), damaged);
    await assert.rejects(restore(newId<BackupId>()), damaged);
  });
});

function* pieces(bytes: Buffer): Generator<Buffer> {
  for (let at = 0; at < bytes.length; at += 700_001) yield bytes.subarray(at, at + 700_001);
}
