import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { lastLines } from '#api/compute/console-output.ts';
import { MAX_MICROVERSION, MIN_MICROVERSION, parseMicroversion } from '#api/compute/microversions.ts';
import { NightlatchError } from '#core/errors.ts';

describe('parseMicroversion', () => {
  it('reads every version it serves, and refuses every other', () => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 3 }), fc.integer({ min: 0, max: 200 }), (major, minor) => {
        const isServed = major === 2 && minor >= MIN_MICROVERSION && minor <= MAX_MICROVERSION;
        const parse = () => parseMicroversion({ current: `compute ${major}.${minor}`, legacy: null });
        if (isServed) assert.equal(parse(), minor);
        else assert.throws(parse, NightlatchError);
      }),
    );
  });

  it('makes of any text a version it serves or a refusal', () => {
    fc.assert(
      fc.property(fc.option(fc.string()), fc.option(fc.string()), (current, legacy) => {
        try {
          const minor = parseMicroversion({ current, legacy });
          assert.ok(Number.isInteger(minor) && minor >= MIN_MICROVERSION && minor <= MAX_MICROVERSION);
        } catch (error) {
          if (!(error instanceof NightlatchError)) throw error;
          assert.ok([400, 406].includes(error.status));
        }
      }),
    );
  });
});

describe('lastLines', () => {
  it('is the end of the text, of so many lines or all there are', () => {
    const text = fc.array(fc.constantFrom('a', '\n', 'b\n'), { maxLength: 30 }).map((parts) => parts.join(''));
    fc.assert(
      fc.property(text, fc.integer({ min: 0, max: 40 }), (whole, lines) => {
        const end = lastLines(whole, lines);
        const count = (some: string): number => some.split('\n').length - (some.endsWith('\n') || some === '' ? 1 : 0);
        assert.ok(whole.endsWith(end));
        assert.equal(count(end), Math.min(lines, count(whole)));
      }),
    );
  });
});
