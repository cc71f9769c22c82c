import type { Comparison } from './comparison.ts';
import { benchDiskCreate, benchDiskOpen } from './disks.ts';
import { benchServerStart, benchSuspendResume } from './servers.ts';

/** Takes its times, telling how it goes on in lines. */
export type Bench = (progress: (line: string) => void) => Promise<Comparison[]>;

/** What encryption costs, and what the stock way of it would. */
export const benches = {
  'disk-create': benchDiskCreate,
  'disk-open': benchDiskOpen,
  'server-start': benchServerStart,
  'suspend-resume': benchSuspendResume,
} as const satisfies Record<string, Bench>;

export type BenchName = keyof typeof benches;
export const benchNames = Object.keys(benches) as BenchName[];
