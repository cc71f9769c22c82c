import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { pageOf } from '#api/image/list.ts';
import type { ImageId, ProjectId } from '#core/ids.ts';
import type { Image } from '#core/image.ts';
import { foreignFormat, isIso9660, MAGIC_BYTES } from '#images/magic.ts';
import { QCOW2_HEADER_BYTES, type Qcow2Header, readQcow2Header } from '#images/qcow2-header.ts';

/** Written from QEMU docs/interop/qcow2.txt. */
function encode(header: Qcow2Header): Buffer {
  const bytes = Buffer.alloc(QCOW2_HEADER_BYTES);
  bytes.write('QFI\xfb', 0, 'latin1');
  bytes.writeUInt32BE(header.version, 4);
  bytes.writeBigUInt64BE(header.backingFileOffset, 8);
  bytes.writeBigUInt64BE(header.virtualSizeBytes, 24);
  bytes.writeUInt32BE(header.cryptMethod, 32);
  bytes.writeBigUInt64BE(header.incompatibleFeatures, 72);
  return bytes;
}

const uint64 = fc.bigInt({ min: 0n, max: 2n ** 64n - 1n });
const header: fc.Arbitrary<Qcow2Header> = fc.record(
  {
    version: fc.constant(3 as const),
    backingFileOffset: uint64,
    virtualSizeBytes: uint64,
    cryptMethod: fc.nat({ max: 0xffffffff }),
    incompatibleFeatures: uint64,
  },
  { noNullPrototype: true },
);

describe('a qcow2 header', () => {
  it('is read as it was written', () => {
    fc.assert(fc.property(header, (one) => assert.deepEqual(readQcow2Header(encode(one)), one)));
  });

  it('of version 2 has no feature bits', () => {
    fc.assert(
      fc.property(header, (one) => {
        const bytes = encode({ ...one, version: 2 });
        assert.deepEqual(readQcow2Header(bytes), { ...one, version: 2, incompatibleFeatures: 0n });
      }),
    );
  });

  it('is found in nothing else, and a cut one is none', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), (any) => assert.equal(readQcow2Header(Buffer.from(any)), null)),
    );
    fc.assert(
      fc.property(header, fc.nat({ max: QCOW2_HEADER_BYTES - 1 }), (one, length) =>
        assert.equal(readQcow2Header(encode(one).subarray(0, length)), null),
      ),
    );
  });
});

describe('first bytes', () => {
  it('of any length are read without a fault', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 100 }), (any) => {
        foreignFormat(Buffer.from(any));
        assert.equal(isIso9660(Buffer.from(any)), false);
      }),
    );
    const iso = Buffer.alloc(MAGIC_BYTES);
    iso.write('CD001', 0x8001, 'latin1');
    assert.equal(isIso9660(iso), true);
    assert.equal(foreignFormat(iso), null);
  });
});

describe('pages', () => {
  const image = fc.record({ name: fc.constantFrom('a', 'b', null), sizeBytes: fc.option(fc.nat({ max: 3 })) });
  it('together hold every image once, in the order asked for', () => {
    fc.assert(
      fc.property(fc.array(image, { maxLength: 30 }), fc.integer({ min: 1, max: 7 }), (some, limit) => {
        const images = some.map((one, i) => makeImage(one, i));
        const query = { sort: 'name:asc,size:desc', limit: String(limit) };
        const turned: Image[] = [];
        let marker: string | null = null;
        do {
          const page = pageOf(images, marker === null ? query : { ...query, marker }, 'project');
          turned.push(...page.images);
          marker = page.next;
        } while (marker !== null);
        assert.deepEqual(turned, pageOf(images, { ...query, limit: '1000' }, 'project').images);
        assert.deepEqual(new Set(turned), new Set(images));
        assert.equal(turned.length, images.length);
        const keys = turned.map(({ name, sizeBytes }) => `${name ?? ''}${9 - (sizeBytes ?? 0)}`);
        assert.deepEqual(keys, [...keys].sort());
      }),
    );
  });
});

function makeImage(fields: Pick<Image, 'name' | 'sizeBytes'>, i: number): Image {
  return {
    ...fields,
    id: `image-${i}` as ImageId,
    projectId: 'project' as ProjectId,
    status: 'active',
    visibility: 'shared',
    diskFormat: 'raw',
    containerFormat: 'bare',
    minDiskGib: 0,
    minRamMib: 0,
    virtualSizeBytes: 0,
    md5: null,
    sha512: null,
    properties: {},
    tags: [],
    protected: false,
    hidden: false,
    createdAt: new Date(0),
    updatedAt: new Date(0),
  };
}
