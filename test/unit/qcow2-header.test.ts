import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { findEncryptionHeader } from '#host/storage/qcow2/header.ts';

type Extension = { type: number; data: Uint8Array };
type Image = {
  clusterBits: number;
  headerLength: number;
  before: Extension[];
  after: Extension[];
  cluster: number;
  length: number;
  backingName: string | null;
};

const POINTER = 0x0537be77;
const other = fc.record({
  type: fc.integer({ min: 1, max: 0xffffffff }).filter((type) => type !== POINTER),
  data: fc.uint8Array({ maxLength: 20 }),
});
const image: fc.Arbitrary<Image> = fc.record({
  clusterBits: fc.integer({ min: 10, max: 16 }),
  headerLength: fc.constantFrom(104, 112, 160),
  before: fc.array(other, { maxLength: 4 }),
  after: fc.array(other, { maxLength: 4 }),
  cluster: fc.integer({ min: 1, max: 1000 }),
  length: fc.integer({ min: 1, max: 4_000_000 }),
  backingName: fc.option(fc.constantFrom('base.raw', '/a/b/c')),
});

function encodeExtension({ type, data }: Extension): Buffer {
  const head = Buffer.alloc(8);
  head.writeUInt32BE(type, 0);
  head.writeUInt32BE(data.length, 4);
  return Buffer.concat([head, Buffer.concat([data], Math.ceil(data.length / 8) * 8)]);
}

/** Written from docs/interop/qcow2.txt. */
function encode({ clusterBits, headerLength, before, after, cluster, length, backingName }: Image): Buffer {
  const pointer = Buffer.alloc(16);
  pointer.writeBigUInt64BE(BigInt(cluster) << BigInt(clusterBits), 0);
  pointer.writeBigUInt64BE(BigInt(length), 8);
  const extensions = [...before, { type: POINTER, data: pointer }, ...after, { type: 0, data: new Uint8Array() }];
  const head = Buffer.alloc(headerLength);
  head.write('QFI\xfb', 0, 'latin1');
  head.writeUInt32BE(3, 4);
  head.writeUInt32BE(clusterBits, 20);
  head.writeUInt32BE(2, 32);
  head.writeUInt32BE(headerLength, 100);
  const bytes = Buffer.concat([head, ...extensions.map(encodeExtension), Buffer.from(backingName ?? '')]);
  if (backingName !== null) bytes.writeBigUInt64BE(BigInt(bytes.length - backingName.length), 8);
  return bytes;
}

const fileBytes = ({ cluster, clusterBits, length }: Image) => cluster * 2 ** clusterBits + length;

test('the pointer is found wherever it stands among the extensions', () => {
  fc.assert(
    fc.property(image, (wanted) => {
      assert.deepEqual(findEncryptionHeader(encode(wanted), fileBytes(wanted)), {
        offset: wanted.cluster * 2 ** wanted.clusterBits,
        length: wanted.length,
      });
    }),
  );
});

test('a pointer beyond the end of the file, or into the header, is refused', () => {
  fc.assert(
    fc.property(image, (wanted) => {
      assert.throws(() => findEncryptionHeader(encode(wanted), fileBytes(wanted) - 1), RangeError);
      assert.throws(() => findEncryptionHeader(encode({ ...wanted, cluster: 0 }), fileBytes(wanted)), RangeError);
    }),
  );
});

test('an image cut short never gives a pointer that it does not hold', () => {
  fc.assert(
    fc.property(image, fc.double({ min: 0, max: 1, noNaN: true }), (wanted, part) => {
      const whole = encode(wanted);
      const head = whole.subarray(0, Math.floor(part * whole.length));
      assertHarmless(head, head.length);
    }),
  );
});

test('hostile bytes end in a pointer into the file, none, or a clear error, at once', () => {
  const damage = fc.array(fc.tuple(fc.nat({ max: 250 }), fc.nat({ max: 255 })), { maxLength: 12 });
  fc.assert(
    fc.property(image, damage, fc.nat({ max: 10_000_000 }), (wanted, bytes, size) => {
      const head = encode(wanted);
      for (const [at, value] of bytes) if (at >= 4 && at < head.length) head[at] = value;
      assertHarmless(head, size);
    }),
    { numRuns: 3000 },
  );
});

test('an extension that claims to be longer than everything is refused', () => {
  for (const claimed of [0x7fffffff, 0xffffffff, 0xfffffff8]) {
    const head = encode({
      clusterBits: 16,
      headerLength: 104,
      before: [],
      after: [],
      cluster: 4,
      length: 9,
      backingName: null,
    });
    head.writeUInt32BE(0x12345678, 104);
    head.writeUInt32BE(claimed, 108);
    assert.throws(() => findEncryptionHeader(head, 1e9), /does not fit/);
  }
});

test('what is not encrypted by LUKS, or no qcow2 image, has no pointer', () => {
  const plain = encode({
    clusterBits: 16,
    headerLength: 104,
    before: [],
    after: [],
    cluster: 4,
    length: 9,
    backingName: null,
  });
  plain.writeUInt32BE(0, 32);
  assert.equal(findEncryptionHeader(plain, 1e9), null);
  assert.equal(findEncryptionHeader(Buffer.alloc(512), 512), null);
  assert.equal(findEncryptionHeader(Buffer.alloc(0), 0), null);
});

function assertHarmless(head: Buffer, size: number): void {
  try {
    const pointer = findEncryptionHeader(head, size);
    if (pointer) assert.ok(pointer.offset > 0 && pointer.length > 0 && pointer.offset + pointer.length <= size);
  } catch (error) {
    assert.ok(error instanceof RangeError && /^the qcow2 image is damaged: /.test(error.message), String(error));
  }
}
