import { open, readdir, readFile, stat } from 'node:fs/promises';
import { join, relative } from 'node:path';
import { hasCode, ignoring } from '#host/files.ts';

const CHUNK_BYTES = 4 * 1024 * 1024;

export type FileSearch = {
  readonly files: number;
  /** Bytes read, by the first folder below the one that was searched; `.` for files in that one itself. */
  readonly bytes: ReadonlyMap<string, number>;
  readonly holding: readonly string[];
};

/**
 * Reads every byte of every regular file below `directory`, on the file system that `directory` is on, and names the
 * files that hold `needle`. A memory file system mounted below is not a medium, and is left out.
 */
export async function searchFiles(directory: string, needle: Buffer): Promise<FileSearch> {
  const { dev } = await stat(directory);
  const search = new Search(needle);
  const bytes = new Map<string, number>();
  const holding: string[] = [];
  let files = 0;
  for await (const path of filesBelow(directory, dev)) {
    // PostgreSQL makes and removes files all the time.
    const found = await searchFile(path, search).catch(ignoring('ENOENT'));
    if (!found) continue;
    files++;
    const place = relative(directory, path).split('/').slice(0, -1)[0] ?? '.';
    bytes.set(place, (bytes.get(place) ?? 0) + found.bytes);
    if (found.hits > 0) holding.push(path);
  }
  return { files, bytes, holding };
}

/**
 * How often `needle` lies in the memory that a process can write to, a guest's own included. Null: this system does not
 * let anyone look.
 */
export async function searchMemory(pid: number, needle: Buffer): Promise<number | null> {
  try {
    await using memory = await open(`/proc/${pid}/mem`, 'r');
    const maps = await readFile(`/proc/${pid}/maps`, 'utf8');
    const search = new Search(needle);
    let hits = 0;
    for (const [start, end] of writableRegions(maps)) hits += (await search.between(memory, start, end)).hits;
    return hits;
  } catch (error) {
    if (hasCode(error, 'EPERM', 'EACCES')) return null;
    throw error;
  }
}

async function* filesBelow(directory: string, dev: number): AsyncGenerator<string> {
  const entries = (await readdir(directory, { withFileTypes: true }).catch(ignoring('ENOENT'))) ?? [];
  for (const entry of entries) {
    const path = join(directory, entry.name);
    if (entry.isFile()) yield path;
    else if (entry.isDirectory() && (await stat(path).catch(ignoring('ENOENT')))?.dev === dev)
      yield* filesBelow(path, dev);
  }
}

async function searchFile(path: string, search: Search): Promise<Found> {
  await using file = await open(path, 'r');
  return await search.between(file, 0, Number.POSITIVE_INFINITY);
}

type Found = { readonly hits: number; readonly bytes: number };
type Readable = {
  read(buffer: Buffer, offset: number, length: number, position: number): Promise<{ bytesRead: number }>;
};

/** Looks for one needle in one source after another, in a buffer that is made once. */
class Search {
  readonly #needle: Buffer;
  readonly #buffer: Buffer;

  constructor(needle: Buffer) {
    this.#needle = needle;
    this.#buffer = Buffer.alloc(CHUNK_BYTES + needle.length);
  }

  /** Counts hits between two positions. Chunks overlap by less than the needle: none is missed or counted twice. */
  async between(source: Readable, start: number, end: number): Promise<Found> {
    const buffer = this.#buffer;
    let hits = 0;
    let kept = 0;
    let at = start;
    while (at < end) {
      // EIO: a region of memory that is there but cannot be read, such as a device's.
      const { bytesRead } = await source
        .read(buffer, kept, Math.min(CHUNK_BYTES, end - at), at)
        .catch((error) => ignoring('EIO', 'EFAULT')(error) ?? { bytesRead: 0 });
      if (bytesRead === 0) break;
      const filled = kept + bytesRead;
      hits += count(buffer.subarray(0, filled), this.#needle);
      at += bytesRead;
      kept = Math.min(this.#needle.length - 1, filled);
      buffer.copyWithin(0, filled - kept, filled);
    }
    return { hits, bytes: at - start };
  }
}

function count(haystack: Buffer, needle: Buffer): number {
  let hits = 0;
  for (let at = haystack.indexOf(needle); at >= 0; at = haystack.indexOf(needle, at + 1)) hits++;
  return hits;
}

function writableRegions(maps: string): [number, number][] {
  return maps.split('\n').flatMap((line): [number, number][] => {
    const [, first, last] = /^([0-9a-f]+)-([0-9a-f]+) rw/.exec(line) ?? [];
    if (first === undefined || last === undefined) return [];
    return [[Number.parseInt(first, 16), Number.parseInt(last, 16)]];
  });
}
