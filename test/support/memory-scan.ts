import { open, readFile } from 'node:fs/promises';

/** Memory a process may write to but that is not worth reading: a guest's own, reserved address space. */
const LARGEST_REGION_BYTES = 512 * 1024 * 1024;

/**
 * Where `needle` lies in the writable memory of a process: the name of each region that holds it (`[heap]`, `[stack]`,
 * a file, or `anonymous`). Memory that the process has freed but still has is looked at too.
 */
export async function findInMemory(pid: number, needle: Buffer): Promise<string[]> {
  await using memory = await open(`/proc/${pid}/mem`, 'r');
  const found: string[] = [];
  for (const line of (await readFile(`/proc/${pid}/maps`, 'utf8')).split('\n')) {
    const [, first, last, name] = /^([0-9a-f]+)-([0-9a-f]+) rw\S* \S+ \S+ \S+ *(.*)$/.exec(line) ?? [];
    if (first === undefined || last === undefined) continue;
    const start = Number.parseInt(first, 16);
    const length = Number.parseInt(last, 16) - start;
    if (length > LARGEST_REGION_BYTES) continue;
    const region = Buffer.alloc(length);
    // EIO: a guard page or a device, which cannot be read and cannot hold anything of ours.
    const { bytesRead } = await memory.read(region, 0, length, start).catch(() => ({ bytesRead: 0 }));
    if (region.subarray(0, bytesRead).includes(needle)) found.push(name || 'anonymous');
    region.fill(0);
  }
  return found;
}
