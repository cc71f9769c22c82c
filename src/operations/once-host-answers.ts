import { setTimeout as sleep } from 'node:timers/promises';
import { type ErrorCode, NightlatchError } from '#core/errors.ts';

const ASK_AGAIN_MS = 1000;
const UNANSWERED: readonly ErrorCode[] = ['host-unavailable', 'hypervisor-unavailable'];

/**
 * Does what can be repeated until its host answers, or libvirt there: what was begun on it goes on meanwhile, and nobody can
 * take it back. `tell` is called with the reason, and with null once it is over.
 */
export async function onceHostAnswers<T>(
  work: () => Promise<T>,
  tell: (reason: string | null) => Promise<void>,
): Promise<T> {
  let told: string | null = null;
  for (;;) {
    try {
      const result = await work();
      if (told !== null) await tell(null);
      return result;
    } catch (error) {
      if (!(error instanceof NightlatchError && UNANSWERED.includes(error.code))) throw error;
      if (told !== error.message) await tell(error.message);
      told = error.message;
    }
    await sleep(ASK_AGAIN_MS);
  }
}
