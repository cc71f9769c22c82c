import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { HostPath } from '#core/ids.ts';

/** A folder in memory-backed storage, for what may lie there in clear for a moment; gone when its scope ends. */
export async function scratchFolder(runDirectory: HostPath): Promise<{ readonly path: string } & AsyncDisposable> {
  const parent = scratchParent(runDirectory);
  await mkdir(parent, { recursive: true, mode: 0o700 });
  const path = await mkdtemp(join(parent, 'scratch-'));
  return { path, [Symbol.asyncDispose]: () => rm(path, { recursive: true, force: true }) };
}

/** Removes what a killed service left in scratch folders. For the start, before anything else uses them. */
export async function clearScratch(runDirectory: HostPath): Promise<void> {
  await rm(scratchParent(runDirectory), { recursive: true, force: true });
}

function scratchParent(runDirectory: HostPath): string {
  return join(runDirectory, 'scratch');
}
