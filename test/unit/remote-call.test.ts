import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { Readable } from 'node:stream';
import { buffer } from 'node:stream/consumers';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { Secret } from '#core/secret.ts';
import { decodeCall, encodeCall } from '#host/remote/call.ts';
import { FrameReader, framed } from '#host/remote/frames.ts';
import { KeySeal } from '#host/remote/key-seal.ts';

/** Both ends of one connection. */
function seals(): { near: KeySeal; far: KeySeal } {
  const material = randomBytes(32);
  const end = () => KeySeal.of({ exportKeyingMaterial: () => Buffer.from(material) });
  return { near: end(), far: end() };
}

const key = fc.uint8Array({ minLength: 1, maxLength: 100 });
/** Undefined in a list and negative zero are not JSON's. */
const json = fc.jsonValue().map((value) => JSON.parse(JSON.stringify(value)) as unknown);
const argument = fc.oneof(
  json,
  key.map((bytes) => Secret.adopt(Buffer.from(bytes))),
  fc
    .array(fc.tuple(fc.string(), key))
    .map((pairs) => new Map(pairs.map(([id, bytes]) => [id, Secret.adopt(Buffer.from(bytes))]))),
  fc.array(fc.string()).map((ids) => new Set(ids)),
  fc
    .uniqueArray(fc.tuple(fc.string(), key), { minLength: 1, selector: ([name]) => name })
    .map((pairs) => Object.fromEntries(pairs.map(([name, bytes]) => [name, Secret.adopt(Buffer.from(bytes))]))),
);
const noSource = async () => Readable.from([]);

/** As it may come through a network: in pieces of any size. */
function inPieces(bytes: Buffer, sizes: readonly number[]): Readable {
  const pieces: Buffer[] = [];
  for (let at = 0, i = 0; at < bytes.length; i++) {
    const size = sizes[i % sizes.length] ?? 1;
    pieces.push(bytes.subarray(at, at + size));
    at += size;
  }
  return Readable.from(pieces, { objectMode: false });
}
const sizes = fc.array(fc.integer({ min: 1, max: 300 }), { minLength: 1, maxLength: 5 });

/** Keys as their bytes, so that they can be compared. */
function plain(arg: unknown): unknown {
  if (arg instanceof Secret) return arg.use((bytes) => ['key', [...bytes]]);
  if (arg instanceof Map) return [...arg].map(([id, secret]) => [id, plain(secret)]);
  if (typeof arg === 'object' && arg !== null && Object.values(arg)[0] instanceof Secret) {
    return Object.entries(arg).map(([name, secret]) => [name, plain(secret)]);
  }
  return arg;
}

describe('a call', () => {
  it('arrives with the arguments it was sent with, in whatever pieces it comes', async () => {
    const { near, far } = seals();
    await fc.assert(
      fc.asyncProperty(fc.array(argument, { maxLength: 5 }), sizes, async (args, pieces) => {
        const bytes = Buffer.concat(encodeCall(args, near).frames);
        using call = await decodeCall(new FrameReader(inPieces(bytes, pieces)), far, noSource);
        assert.deepEqual(call.args.map(plain), args.map(plain));
      }),
    );
  });

  it('shows no key to who listens, and fails when a bit of it was changed', async () => {
    const { near, far } = seals();
    await fc.assert(
      fc.asyncProperty(json, fc.nat(), async (value, place) => {
        using secret = Secret.generate();
        const bytes = Buffer.concat(encodeCall([value, secret], near).frames);
        assert.ok(!secret.use((one) => bytes.includes(one)));
        const at = place % (bytes.length * 8);
        bytes[at >> 3] = (bytes[at >> 3] ?? 0) ^ (1 << (at & 7));
        await assert.rejects(decodeCall(new FrameReader(inPieces(bytes, [64])), far, noSource), Error);
      }),
    );
  });

  it('opens at no other connection’s end', async () => {
    using secret = Secret.generate();
    const bytes = Buffer.concat(encodeCall([secret], seals().near).frames);
    await assert.rejects(decodeCall(new FrameReader(inPieces(bytes, [64])), seals().far, noSource));
  });

  it('is refused when a key hides inside of other data, or is cut short anywhere', async () => {
    const { near, far } = seals();
    using secret = Secret.generate();
    assert.throws(() => encodeCall([{ deep: [secret] }], near), /does not travel/);
    assert.throws(() => encodeCall([new Map([['a', 'b']])], near), /not keys/);
    const bytes = Buffer.concat(encodeCall([{ a: 1 }, secret], near).frames);
    for (let length = 0; length < bytes.length; length++) {
      const cut = new FrameReader(inPieces(bytes.subarray(0, length), [7]));
      await assert.rejects(decodeCall(cut, far, noSource), /it ended after/);
    }
  });

  it('of noise fails, and fails as an error', async () => {
    await fc.assert(
      fc.asyncProperty(fc.uint8Array({ maxLength: 200 }), sizes, async (noise, pieces) => {
        const reader = new FrameReader(inPieces(Buffer.from(noise), pieces));
        await assert.rejects(decodeCall(reader, seals().far, noSource), Error);
      }),
    );
  });
});

describe('framed bytes', () => {
  const lost = (cause: unknown): never => {
    throw cause;
  };

  it('arrive as they were, in whatever pieces they come', async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(fc.uint8Array({ maxLength: 500 })), sizes, async (chunks, pieces) => {
        const sent = chunks.map((chunk) => Buffer.from(chunk));
        const source = (async function* () {
          yield* sent;
        })();
        const wire = Buffer.concat(await Array.fromAsync(framed(source)));
        assert.deepEqual(await buffer(new FrameReader(inPieces(wire, pieces)).rest(lost)), Buffer.concat(sent));
      }),
    );
  });

  it('that are cut short anywhere do not look whole', async () => {
    const source = (async function* () {
      yield Buffer.from('some bytes');
      yield Buffer.from('and more');
    })();
    const wire = Buffer.concat(await Array.fromAsync(framed(source)));
    for (let length = 0; length < wire.length; length++) {
      const cut = new FrameReader(inPieces(wire.subarray(0, length), [7]));
      await assert.rejects(buffer(cut.rest(lost)), /it ended after/);
    }
  });
});
