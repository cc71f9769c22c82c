import { setTimeout as sleep } from 'node:timers/promises';

/** Returns as soon as the condition holds. @throws when it does not within the time; `what` says what was waited for. */
export async function waitUntil(what: string, condition: () => Promise<boolean>, timeoutMs = 10_000): Promise<void> {
  const deadline = Date.now() + timeoutMs;
  while (!(await condition())) {
    if (Date.now() > deadline) throw new Error(`waited ${timeoutMs} ms in vain: ${what}`);
    await sleep(10);
  }
}
