import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { Limiter } from '#identity/builtin/limiter.ts';
import { decodePasswordHash, encodePasswordHash, hashPassword, verifyPassword } from '#identity/builtin/password.ts';

const bytes = fc.uint8Array({ minLength: 1, maxLength: 64 }).map((array) => Buffer.from(array));
const hash = fc.record(
  {
    logN: fc.integer({ min: 1, max: 20 }),
    r: fc.integer({ min: 1, max: 32 }),
    p: fc.integer({ min: 1, max: 32 }),
    salt: bytes,
    key: bytes,
  },
  { noNullPrototype: true },
);

describe('a stored password', () => {
  it('is read as it was written', () => {
    fc.assert(fc.property(hash, (one) => assert.deepEqual(decodePasswordHash(encodePasswordHash(one)), one)));
  });

  it('is nothing else', () => {
    fc.assert(fc.property(fc.string(), (text) => assert.equal(decodePasswordHash(text), null)));
    const costly = ['ln=31,r=8,p=1', 'ln=15,r=999,p=999', 'ln=0,r=8,p=1', 'ln=15,r=0,p=1'];
    for (const cost of costly) assert.equal(decodePasswordHash(`$scrypt$${cost}$AAAA$AAAA`), null);
  });

  it('opens to the password alone, whose text it does not hold', async () => {
    const stored = await hashPassword('pässword');
    assert.ok(!stored.includes('ssword'));
    assert.notEqual(stored, await hashPassword('pässword'));
    assert.equal(await verifyPassword('pa\u0308ssword', stored), true);
    assert.equal(await verifyPassword('passwörd', stored), false);
    assert.equal(await verifyPassword('', stored), false);
    assert.equal(await verifyPassword('pässword', null), false);
  });
});

describe('a limiter', () => {
  it('runs so many at once, lets so many wait, and refuses the rest', async () => {
    const limiter = new Limiter(2, 3, () => new Error('full'));
    let running = 0;
    let most = 0;
    const release = Promise.withResolvers<void>();
    const work = () =>
      limiter.run(async () => {
        running += 1;
        most = Math.max(most, running);
        await release.promise;
        running -= 1;
      });
    const accepted = Array.from({ length: 5 }, work);
    await assert.rejects(work(), /full/);
    release.resolve();
    await Promise.all(accepted);
    assert.equal(most, 2);
    await work();
  });

  it('gives a place back when work fails', async () => {
    const limiter = new Limiter(1, 0, () => new Error('full'));
    await assert.rejects(
      limiter.run(() => Promise.reject(new Error('bad'))),
      /bad/,
    );
    assert.equal(await limiter.run(async () => 7), 7);
  });
});
