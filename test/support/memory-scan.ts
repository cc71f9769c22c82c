import { type FileHandle, open, readFile } from 'node:fs/promises';

/** Memory a process may write to but that is not worth reading: a guest's own, reserved address space. */
const LARGEST_REGION_BYTES = 512 * 1024 * 1024;
const PAGE_BYTES = 4096;
/** Bytes of an entry of /proc/PID/pagemap, one a page; its highest two bits: the page is in memory, or in swap. See proc(5). */
const ENTRY_BYTES = 8;
const IS_THERE = 0xc0;

type Range = { readonly start: number; readonly length: number };

/**
 * Where `needle` lies in the writable memory of a process: the name of each region that holds it (`[heap]`, `[stack]`,
 * a file, or `anonymous`). Memory that the process has freed but still has is looked at too.
 *
 * Pages that the process never touched are not read: to read one makes it, and a second kernel whose process has more
 * pages than the machine allows it mappings (vm.max_map_count) kills that process.
 */
export async function findInMemory(pid: number, needle: Buffer): Promise<string[]> {
  await using memory = await open(`/proc/${pid}/mem`, 'r');
  await using pages = await open(`/proc/${pid}/pagemap`, 'r');
  const found: string[] = [];
  for (const line of (await readFile(`/proc/${pid}/maps`, 'utf8')).split('\n')) {
    const [, first, last, name] = /^([0-9a-f]+)-([0-9a-f]+) rw\S* \S+ \S+ \S+ *(.*)$/.exec(line) ?? [];
    if (first === undefined || last === undefined) continue;
    const start = Number.parseInt(first, 16);
    const length = Number.parseInt(last, 16) - start;
    if (length > LARGEST_REGION_BYTES) continue;
    for (const range of await touched(pages, { start, length })) {
      if (await holds(memory, range, needle)) found.push(name || 'anonymous');
    }
  }
  return [...new Set(found)];
}

async function holds(memory: FileHandle, { start, length }: Range, needle: Buffer): Promise<boolean> {
  const bytes = Buffer.alloc(length);
  // EIO: a guard page or a device, which cannot be read and cannot hold anything of ours.
  const { bytesRead } = await memory.read(bytes, 0, length, start).catch(() => ({ bytesRead: 0 }));
  const isThere = bytes.subarray(0, bytesRead).includes(needle);
  bytes.fill(0);
  return isThere;
}

/** The parts of a region that the process has touched, each as long as it can be. */
async function touched(pages: FileHandle, { start, length }: Range): Promise<Range[]> {
  const entries = Buffer.alloc((length / PAGE_BYTES) * ENTRY_BYTES);
  await pages.read(entries, 0, entries.length, (start / PAGE_BYTES) * ENTRY_BYTES);
  const ranges: Range[] = [];
  let from: number | null = null;
  for (let page = 0; page <= length / PAGE_BYTES; page++) {
    const isThere = ((entries[page * ENTRY_BYTES + ENTRY_BYTES - 1] ?? 0) & IS_THERE) !== 0;
    if (isThere) from ??= page;
    else if (from !== null) {
      ranges.push({ start: start + from * PAGE_BYTES, length: (page - from) * PAGE_BYTES });
      from = null;
    }
  }
  return ranges;
}
