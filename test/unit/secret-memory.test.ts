import assert from 'node:assert/strict';
import { once } from 'node:events';
import { test } from 'node:test';
import { forkWorker } from '#host/exec.ts';
import { findInMemory } from '#test/support/memory-scan.ts';

test('a secret whose scope has ended is nowhere in the memory of the process', async () => {
  const holder = forkWorker(new URL('../support/secret-holder.ts', import.meta.url), []);
  try {
    const [inverted] = (await once(holder, 'message')) as [number[]];
    const key = Buffer.from(inverted.map((byte) => byte ^ 0xff));
    assert.match(key.toString('latin1'), /^[0-9a-f]{64}$/);
    assert.deepEqual(await findInMemory(Number(holder.pid), key.subarray(16, 48)), []);
  } finally {
    holder.kill('SIGKILL');
    await once(holder, 'exit');
  }
});
