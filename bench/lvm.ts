import { fileURLToPath } from 'node:url';
import { GIB } from '#core/sizes.ts';
import { SecondKernel } from '#test/support/second-kernel.ts';
import type { BenchPlace } from './benches.ts';
import type { Comparison } from './comparison.ts';
import { measureVolumes } from './volumes.ts';

const GROUP = 'nl-bench';
const TIMEOUT_MS = 1_800_000;
const CHECKOUT = fileURLToPath(new URL('..', import.meta.url));

/**
 * What dm-crypt on logical volumes costs: on a volume group of this machine, which needs 2 GiB free, or in a second kernel,
 * whose disk is memory and whose AES has no instructions of the processor's.
 */
export async function benchLvm(progress: (line: string) => void, { volumeGroup }: BenchPlace): Promise<Comparison[]> {
  if (volumeGroup !== null) return await measureVolumes(volumeGroup, progress);
  await using kernel = await SecondKernel.start({ disks: [8 * GIB], memoryMib: 2048 });
  await kernel.must('vgcreate', '-q', GROUP, ...kernel.disks);
  progress('measuring in a second kernel; its lines come at the end');
  const inside = ['env', `--chdir=${CHECKOUT}`, process.execPath, 'bench/volumes-inside.ts', GROUP] as const;
  const { code, stdout, stderr } = await kernel.run(inside[0], inside.slice(1), { timeoutMs: TIMEOUT_MS });
  for (const line of stderr.trim().split('\n')) progress(line);
  if (code !== 0) throw new Error(`measuring in the second kernel failed: ${stderr}`);
  return JSON.parse(stdout) as Comparison[];
}
