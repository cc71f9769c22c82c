import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { Secret } from '#core/secret.ts';

test('joined secrets are their bytes in order, and live on when the parts are zeroed', () => {
  fc.assert(
    fc.property(fc.array(fc.uint8Array({ maxLength: 100 }), { maxLength: 8 }), (parts) => {
      const expected = Buffer.concat(parts);
      const secrets = parts.map((part) => Secret.adopt(Buffer.from(part)));
      using joined = Secret.join(secrets);
      for (const secret of secrets) secret[Symbol.dispose]();
      joined.use((bytes) => assert.deepEqual(bytes, expected));
    }),
  );
});

test('a secret that was zeroed cannot be joined', () => {
  const gone = Secret.generate();
  gone[Symbol.dispose]();
  assert.throws(() => Secret.join([gone]), /after it was zeroed/);
});
