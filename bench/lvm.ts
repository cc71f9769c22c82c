import { fileURLToPath } from 'node:url';
import { GIB } from '#core/sizes.ts';
import { SecondKernel } from '#test/support/second-kernel.ts';
import type { BenchPlace } from './benches.ts';
import type { Comparison } from './comparison.ts';
import { measureVolumes } from './volumes.ts';

const GROUP = 'nl-bench';
const TIMEOUT_MS = 1_800_000;
const INSIDE = 'bench/volumes-inside.ts';
/** What is measured in a second kernel, one after the other. */
const volumeParts = ['throughput', 'servers'] as const;
export type VolumePart = (typeof volumeParts)[number];
const CHECKOUT = fileURLToPath(new URL('..', import.meta.url));

/**
 * What dm-crypt on logical volumes costs: on a volume group of this machine, which needs 2 GiB free, or in a second kernel,
 * whose disk is memory, whose AES has no instructions of the processor's, and where servers are started and locked too.
 */
export async function benchLvm(progress: (line: string) => void, { volumeGroup }: BenchPlace): Promise<Comparison[]> {
  if (volumeGroup !== null) return await measureVolumes(volumeGroup, 'bare volume', progress);
  await using kernel = await SecondKernel.start({ disks: [20 * GIB], memoryMib: 4096 });
  await kernel.must('vgcreate', '-q', GROUP, ...kernel.disks);
  const comparisons: Comparison[] = [];
  for (const part of volumeParts) {
    progress(`measuring ${part} in a second kernel; its lines come at the end`);
    const args = [`--chdir=${CHECKOUT}`, `NIGHTLATCH_TEST_VOLUME_GROUP=${GROUP}`, process.execPath, INSIDE, part];
    const { code, stdout, stderr } = await kernel.run('env', args, { timeoutMs: TIMEOUT_MS });
    for (const line of stderr.trim().split('\n')) progress(line);
    if (code !== 0) throw new Error(`measuring ${part} in the second kernel failed: ${stderr}`);
    comparisons.push(...(JSON.parse(stdout) as Comparison[]));
  }
  return comparisons;
}
