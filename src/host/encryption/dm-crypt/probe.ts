import { NightlatchError } from '#core/errors.ts';
import { run } from '#host/exec.ts';

/** Far more than it takes: a host that has much to do is not refused for it. */
const TIMEOUT_MS = 60_000;

/**
 * Makes sure that this kernel has device-mapper, dm-crypt and a cipher, by making a mapping with it over nothing at all
 * and removing that again. *Throws* device-mapper-unusable, naming the cipher; program-missing.
 */
export async function checkCipher(cipher: string, keyBits: number): Promise<void> {
  const doing = `Checking that the kernel knows the cipher ${cipher} with ${keyBits} bits`;
  const below = `nl-probe-${process.pid}`;
  const above = `${below}-crypt`;
  const dmsetup = (args: readonly string[], input?: string) =>
    run('dmsetup', args, { doing, timeoutMs: TIMEOUT_MS, ...(input === undefined ? {} : { input }) });
  try {
    await dmsetup(['create', below], '0 8 error\n');
    // A key of no disk: nothing is ever written with it.
    const key = 'a5'.repeat(keyBits / 16) + '5a'.repeat(keyBits / 16);
    await dmsetup(['create', above], `0 8 crypt ${cipher} ${key} 0 /dev/mapper/${below} 0\n`);
  } catch (error) {
    if (!(error instanceof NightlatchError) || error.code !== 'program-failed') throw error;
    const reason = `the kernel refused it (${error.details.stderr}). Load its module, or choose another cipher`;
    throw new NightlatchError('device-mapper-unusable', { doing, reason }, { cause: error });
  } finally {
    for (const name of [above, below]) await dmsetup(['remove', '--force', name]).catch(() => {});
  }
}
