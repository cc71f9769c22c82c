import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { LUKS2_METADATA_BYTES, parseLuks2Header } from '#host/encryption/dm-crypt/luks2-header.ts';
import { parsePlainNote, plainNote } from '#host/encryption/dm-crypt/plain.ts';
import { parseCryptTable } from '#host/encryption/dm-crypt/table.ts';
import { parseVolumes } from '#host/storage/lvm/volumes.ts';
import { someDisk } from '#test/support/disk-lab.ts';

const number = fc.integer({ min: 0, max: 2 ** 40 });
const flags = fc.uniqueArray(fc.constantFrom('no_read_workqueue', 'no_write_workqueue', 'allow_discards'));

test('a crypt table is read back, whatever its options', () => {
  fc.assert(
    fc.property(number, number, flags, fc.constantFrom(512, 4096), (length, offset, some, sectorBytes) => {
      const options = [...some, ...(sectorBytes === 512 ? [] : [`sector_size:${sectorBytes}`])];
      const tail = options.length === 0 ? '' : ` ${options.length} ${options.join(' ')}`;
      const text = `0 ${length} crypt aes-xts-plain64 :64:logon:cryptsetup:x 0 254:3 ${offset}${tail}\n`;
      const expected = { lengthBytes: length * 512, offsetBytes: offset * 512, sectorBytes, flags: some };
      assert.deepEqual(parseCryptTable(text), { ...expected, cipher: 'aes-xts-plain64', device: '254:3' });
    }),
  );
});

test('what is no single crypt target is no crypt table', () => {
  const good = '0 8 crypt aes-xts-plain64 00 0 254:3 0';
  for (const text of ['', 'No devices found', '0 8 linear 254:3 0', good.replace('0', '8'), `${good}\n8 ${good}`]) {
    assert.equal(parseCryptTable(text), null, text);
  }
  fc.assert(fc.property(fc.string(), (text) => assert.equal(parseCryptTable(text), null)));
});

test('the note of a plain disk is read back; anything else is no note', () => {
  const sizes = fc.integer({ min: 1, max: 2 ** 30 }).map((sectors) => sectors * 512);
  fc.assert(
    fc.property(sizes, fc.constantFrom(256, 512), (sizeBytes, keyBits) => {
      const note = plainNote(someDisk({ sizeBytes }), { cipher: 'aes-xts-plain64', keyBits });
      const sectorBytes = sizeBytes % 4096 === 0 ? 4096 : 512;
      assert.deepEqual(parsePlainNote(note), { cipher: 'aes-xts-plain64', keyBits, hash: 'sha512', sectorBytes });
      // What LVM takes as a tag.
      assert.match(note, /^[A-Za-z0-9_+.\-/=!:&#]+$/);
    }),
  );
  fc.assert(fc.property(fc.string(), (text) => assert.equal(parsePlainNote(text), null)));
});

test('damaged bytes are a LUKS2 header or none, never an error', () => {
  const bytes = Buffer.alloc(LUKS2_METADATA_BYTES);
  bytes.write('LUKS\xba\xbe\0\x02', 'latin1');
  bytes.write('11111111-1111-4111-8111-111111111111', 168);
  const segment = {
    type: 'crypt',
    offset: '16777216',
    size: 'dynamic',
    encryption: 'aes-xts-plain64',
    sector_size: 4096,
  };
  bytes.write(
    JSON.stringify({
      keyslots: { 0: { key_size: 64, area: { offset: '32768', size: '258048' } } },
      segments: { 0: segment },
    }),
    4096,
  );
  const facts = parseLuks2Header(bytes);
  assert.deepEqual([facts?.payloadOffsetBytes, facts?.sectorBytes, facts?.keyBits], [16777216, 4096, 512]);
  assert.deepEqual(facts?.slotAreas, [{ start: 32768, end: 290816 }]);
  fc.assert(
    fc.property(fc.nat({ max: 4400 }), fc.uint8Array({ minLength: 1, maxLength: 64 }), (at, noise) => {
      const damaged = Buffer.from(bytes);
      damaged.set(noise, at);
      const read = parseLuks2Header(damaged);
      const isMarked = damaged.subarray(0, 8).equals(bytes.subarray(0, 8));
      if (!isMarked) assert.equal(read, null);
      assert.ok(read === null || read.uuid.length === 36);
    }),
  );
  assert.equal(parseLuks2Header(bytes.subarray(0, 4096)), null);
});

test('volumes are read as lvs prints them; another shape is an error', () => {
  const word = fc.stringMatching(/^[a-z0-9_.+-]{1,20}$/);
  const volume = fc.record(
    { name: word, sizeBytes: number, tags: fc.array(word, { maxLength: 3 }) },
    { noNullPrototype: true },
  );
  fc.assert(
    fc.property(fc.array(volume), (volumes) => {
      const text = volumes.map(({ name, sizeBytes, tags }) => `  ${name}|${sizeBytes}|${tags.join(',')}\n`).join('');
      assert.deepEqual(parseVolumes(text), volumes);
    }),
  );
  assert.throws(() => parseVolumes('  a|b|c\n'), /unknown shape/);
});
