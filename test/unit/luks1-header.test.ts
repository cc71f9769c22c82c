import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { LUKS1_PHDR_BYTES, parseLuks1Header } from '#host/encryption/luks/header.ts';

type Fields = {
  cipherName: string;
  cipherMode: string;
  payloadOffset: number;
  keyBytes: number;
  uuid: string;
  slots: boolean[];
};

const word = (maxLength: number) => fc.stringMatching(/^[a-z0-9-]+$/).map((text) => text.slice(0, maxLength));
const fields: fc.Arbitrary<Fields> = fc.record({
  cipherName: word(31),
  cipherMode: word(31),
  payloadOffset: fc.nat({ max: 0xffffffff }),
  keyBytes: fc.constantFrom(16, 32, 64),
  uuid: fc.uuid(),
  slots: fc.array(fc.boolean(), { minLength: 8, maxLength: 8 }),
});

/** Written from figures 2 and 3 of the specification, noise where the parser does not look. */
function encode({ cipherName, cipherMode, payloadOffset, keyBytes, uuid, slots }: Fields, noise: Uint8Array): Buffer {
  const bytes = Buffer.from(noise);
  bytes.write('LUKS\xba\xbe', 0, 'latin1');
  bytes.writeUInt16BE(1, 6);
  for (const [offset, length, text] of [
    [8, 32, cipherName],
    [40, 32, cipherMode],
    [72, 32, 'sha256'],
    [168, 40, uuid],
  ] as const) {
    bytes.fill(0, offset, offset + length).write(text, offset, 'latin1');
  }
  bytes.writeUInt32BE(payloadOffset, 104);
  bytes.writeUInt32BE(keyBytes, 108);
  for (const [i, active] of slots.entries()) bytes.writeUInt32BE(active ? 0x00ac71f3 : 0x0000dead, 208 + 48 * i);
  return bytes;
}

const noise = fc.uint8Array({ minLength: LUKS1_PHDR_BYTES, maxLength: LUKS1_PHDR_BYTES });

test('every field of a LUKS1 header is read from its place', () => {
  fc.assert(
    fc.property(fields, noise, (wanted, filler) => {
      assert.deepEqual(parseLuks1Header(encode(wanted, filler)), {
        format: 'luks',
        version: 1,
        uuid: wanted.uuid,
        cipher: `${wanted.cipherName}-${wanted.cipherMode}`,
        keyBits: wanted.keyBytes * 8,
        payloadOffsetBytes: wanted.payloadOffset * 512,
        activeKeySlots: wanted.slots.flatMap((active, slot) => (active ? [slot] : [])),
      });
    }),
  );
});

test('bytes that are no LUKS1 header are none, and never an exception', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 2 * LUKS1_PHDR_BYTES }), (bytes) => {
      assert.equal(parseLuks1Header(Buffer.from(bytes)), null);
    }),
  );
});

test('a header that was cut short or damaged is none', () => {
  fc.assert(
    fc.property(fields, noise, fc.nat({ max: LUKS1_PHDR_BYTES - 1 }), (wanted, filler, length) => {
      const whole = encode(wanted, filler);
      assert.equal(parseLuks1Header(whole.subarray(0, length)), null);
      for (const [offset, value] of [
        [0, 0x4c],
        [7, 2],
        [8, 0],
        [168, 0x0a],
        [211, 0x11],
      ] as const) {
        const damaged = Buffer.from(whole);
        damaged[offset] = value === 0x4c ? 0x4d : value;
        assert.equal(parseLuks1Header(damaged), null, `byte ${offset}`);
      }
    }),
  );
});
