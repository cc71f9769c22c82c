import type { DiskSpec } from '#core/disk.ts';
import { run } from '#host/exec.ts';

/** What is done to a volume before it is removed. See Nova's `[libvirt] volume_clear`. */
export type Clearing = {
  readonly way: 'zero' | 'shred' | 'none';
  /** Only so many bytes at its start; null: all. */
  readonly limitBytes: number | null;
  /** Also volumes of encrypted disks, which are unreadable without it. */
  readonly encryptedToo: boolean;
};

/** What Nova does, but for encrypted disks, whose end must not take longer the larger they are. */
export const defaultClearing: Clearing = { way: 'zero', limitBytes: null, encryptedToo: false };

const TIMEOUT_MS = 24 * 60 * 60_000;

/** Overwrites what a disk left on its volume, as far as was asked for. Takes as long as the medium needs to be written. */
export async function clearVolume(disk: DiskSpec, path: string, sizeBytes: number, clearing: Clearing): Promise<void> {
  const { way, limitBytes, encryptedToo } = clearing;
  if (way === 'none' || (disk.encryption !== null && !encryptedToo)) return;
  const options = { doing: `Clearing disk ${disk.id}`, timeoutMs: TIMEOUT_MS };
  const length = String(Math.min(sizeBytes, limitBytes ?? sizeBytes));
  if (way === 'zero') await run('blkdiscard', ['--zeroout', '--length', length, path], options);
  else await run('shred', ['--iterations', '3', '--size', length, path], options);
}
