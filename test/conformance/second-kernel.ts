import { fileURLToPath } from 'node:url';
import { GIB } from '#core/sizes.ts';
import { SecondKernel } from '#test/support/second-kernel.ts';

const GROUP = 'nl-test';
const CHECKOUT = fileURLToPath(new URL('../..', import.meta.url));
const TIMEOUT_MS = 60 * 60_000;

/**
 * Runs `npm run prove -- WORDS` inside a second kernel, where volumes lie on logical volumes; prints what it prints once it
 * has ended, and returns what its last line counts. @throws when it has no such line.
 */
export async function proveInSecondKernel(words: readonly string[]): Promise<{ passed: number; failed: number }> {
  await using kernel = await SecondKernel.start({ disks: [100 * GIB], memoryMib: 4096 });
  await kernel.must('vgcreate', '-q', GROUP, ...kernel.disks);
  const environment = [`NIGHTLATCH_TEST_VOLUME_GROUP=${GROUP}`, 'NIGHTLATCH_TEST_VOLUME_DRIVER=lvm'];
  const program = [process.execPath, 'scripts/prove.ts', ...words.filter((word) => word !== '')];
  process.stdout.write(`inside a second kernel: ${words.join(' ')}\n`);
  const outcome = await kernel.run('env', [`--chdir=${CHECKOUT}`, ...environment, ...program], {
    timeoutMs: TIMEOUT_MS,
  });
  process.stdout.write(outcome.stdout);
  const [, passed, failed] = /^\S+: (\d+) passed, (\d+) failed\s*$/m.exec(outcome.stdout.slice(-200)) ?? [];
  if (!passed || !failed) throw new Error(`it ended with ${outcome.code}: ${outcome.stderr}`);
  return { passed: Number(passed), failed: Number(failed) };
}
