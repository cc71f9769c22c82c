import { benchBlockStorage } from './block-storage.ts';
import type { Comparison } from './comparison.ts';
import { benchDiskCreate, benchDiskOpen } from './disks.ts';
import { benchLvm } from './lvm.ts';
import { benchPanic } from './panic.ts';
import { benchRbd } from './rbd.ts';
import { benchServerStart, benchSuspendResume } from './servers.ts';

/** Takes its times, telling how it goes on in lines. */
export type Bench = (progress: (line: string) => void, where: BenchPlace) => Promise<Comparison[]>;

/** `volumeGroup`: one of this machine's own to measure on; null: one in a second kernel. */
export type BenchPlace = { readonly volumeGroup: string | null };

/** What encryption costs, and what the stock way of it would. */
export const benches = {
  'disk-create': benchDiskCreate,
  'disk-open': benchDiskOpen,
  'server-start': benchServerStart,
  'suspend-resume': benchSuspendResume,
  panic: benchPanic,
  'block-storage': benchBlockStorage,
  rbd: benchRbd,
  lvm: benchLvm,
} as const satisfies Record<string, Bench>;

export type BenchName = keyof typeof benches;
export const benchNames = Object.keys(benches) as BenchName[];
