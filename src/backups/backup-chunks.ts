import { createHash } from 'node:crypto';
import { Readable } from 'node:stream';
import { z } from 'zod';
import { NightlatchError } from '#core/errors.ts';
import type { BackupId } from '#core/ids.ts';
import type { BackupStore } from './backup-store.ts';

/** Bytes of a chunk, but for the last; an incremental backup stores those that differ from its parent's. */
const CHUNK_BYTES = 8 * 1024 * 1024;

const ZEROS = Buffer.alloc(CHUNK_BYTES);

const Manifest = z.strictObject({
  version: z.literal(1),
  chunkBytes: z.number().int().positive(),
  /** In order. `in`: the backup whose object holds it; null: it is all zeros, and has no hash. */
  chunks: z.array(
    z.strictObject({ sha256: z.string(), bytes: z.number().int().positive(), in: z.string().nullable() }),
  ),
});
/** What a backup's bytes are made of. */
type Manifest = z.output<typeof Manifest>;

/** How many bytes a backup has, and how many of them lie in objects of its own. */
export type StoredBackup = { readonly bytes: number; readonly ownBytes: number; readonly objects: number };

/**
 * Stores a stream as a backup: chunks that its parent has too are only named. On return all of it is durable. *Repeat*:
 * starts over. *Crash*: leaves objects without a list, which a repeat replaces and `removeBackup` removes.
 */
export async function storeBackup(
  store: BackupStore,
  id: BackupId,
  bytes: Readable,
  parent: BackupId | null,
): Promise<StoredBackup> {
  const before = parent === null ? null : await readManifest(store, parent);
  const chunks: Manifest['chunks'] = [];
  const stored = { bytes: 0, ownBytes: 0, objects: 0 };
  for await (const chunk of chunksOf(bytes)) {
    const isZero = chunk.equals(ZEROS.subarray(0, chunk.length));
    const sha256 = isZero ? '' : createHash('sha256').update(chunk).digest('hex');
    const known = before?.chunks[chunks.length];
    const isKnown = !isZero && known?.sha256 === sha256 && known.bytes === chunk.length;
    const holder = isZero ? null : isKnown ? known.in : id;
    if (holder === id) {
      await store.put(chunkName(id, chunks.length), chunk);
      stored.ownBytes += chunk.length;
      stored.objects++;
    }
    stored.bytes += chunk.length;
    chunks.push({ sha256, bytes: chunk.length, in: holder });
  }
  const manifest: Manifest = { version: 1, chunkBytes: CHUNK_BYTES, chunks };
  await store.put(manifestName(id), Buffer.from(JSON.stringify(manifest)));
  return { ...stored, objects: stored.objects + 1 };
}

/** The bytes of a backup, as they were stored. Each chunk is checked. *Throws* backup-damaged, also in mid-stream. */
export async function openBackup(store: BackupStore, id: BackupId): Promise<Readable> {
  return Readable.from(read(store, await readManifest(store, id)));
}

/** *Repeat*: fine. */
export async function removeBackup(store: BackupStore, id: BackupId): Promise<void> {
  await store.deleteAll(id);
}

async function* read(store: BackupStore, { chunks }: Manifest): AsyncGenerator<Buffer> {
  for (const [index, { sha256, bytes, in: holder }] of chunks.entries()) {
    if (holder === null) {
      yield Buffer.alloc(bytes);
      continue;
    }
    const name = chunkName(holder as BackupId, index);
    const chunk = await store.get(name);
    if (createHash('sha256').update(chunk).digest('hex') !== sha256) {
      throw new NightlatchError('backup-damaged', { reason: `${name} is not what was stored` });
    }
    yield chunk;
  }
}

async function readManifest(store: BackupStore, id: BackupId): Promise<Manifest> {
  const text = (await store.get(manifestName(id))).toString();
  try {
    return Manifest.parse(JSON.parse(text));
  } catch (error) {
    throw new NightlatchError(
      'backup-damaged',
      { reason: `${manifestName(id)} is no list of chunks` },
      { cause: error },
    );
  }
}

async function* chunksOf(bytes: Readable): AsyncGenerator<Buffer> {
  let parts: Buffer[] = [];
  let length = 0;
  for await (const part of bytes as AsyncIterable<Buffer>) {
    parts.push(part);
    length += part.length;
    while (length >= CHUNK_BYTES) {
      const all = Buffer.concat(parts, length);
      yield all.subarray(0, CHUNK_BYTES);
      parts = [all.subarray(CHUNK_BYTES)];
      length -= CHUNK_BYTES;
    }
  }
  if (length > 0) yield Buffer.concat(parts, length);
}

function manifestName(id: BackupId): string {
  return `${id}/manifest.json`;
}

function chunkName(id: BackupId, index: number): string {
  return `${id}/${String(index).padStart(8, '0')}`;
}
