import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { FrameReader, frame, parseAnswer, parseRequest } from '#host/helper-protocol.ts';

const bytes = (maxLength: number) => fc.uint8Array({ maxLength }).map((array) => Buffer.from(array));

test('frames arrive as they were sent, however the stream is cut; what was read is zeroed', () => {
  const sent = fc.array(bytes(50), { minLength: 1, maxLength: 4 });
  fc.assert(
    fc.property(sent, fc.array(fc.nat({ max: 9 })), (contents, cuts) => {
      const reader = new FrameReader(contents.map(() => 50));
      const stream = Buffer.concat(contents.map((content) => frame(content)));
      let isWhole = false;
      for (let at = 0, i = 0; at < stream.length; i++) {
        assert.equal(isWhole, false, 'not before its end');
        const chunk = Buffer.from(stream.subarray(at, at + 1 + (cuts[i % Math.max(1, cuts.length)] ?? 0)));
        at += chunk.length;
        isWhole = reader.take(chunk);
        assert.ok(chunk.every((byte) => byte === 0));
      }
      assert.equal(isWhole, true);
      assert.deepEqual(
        reader.frames.map((each) => each.toString('hex')),
        contents.map((each) => each.toString('hex')),
      );
      reader.wipe();
      assert.ok(reader.frames.every((each) => each.every((byte) => byte === 0)));
    }),
  );
});

test('a frame longer than its limit is refused before there is room for it, and so is one more than agreed', () => {
  const long = Buffer.from([0x40, 0, 0, 0]);
  assert.throws(() => new FrameReader([1024]).take(Buffer.from(long)), /1073741824 bytes is longer than 1024/);
  assert.throws(() => new FrameReader([4, 4]).take(Buffer.concat([frame('four'), long])), RangeError);
  assert.throws(() => new FrameReader([4]).take(Buffer.concat([frame('four'), frame('')])), /after the last frame/);
});

test('what is no request or no answer is told apart from one, whatever it is', () => {
  fc.assert(fc.property(bytes(200), (noise) => parseRequest(noise) === null && parseAnswer(noise) === null));
  fc.assert(
    fc.property(fc.json(), (json) => {
      parseRequest(Buffer.from(json));
      parseAnswer(Buffer.from(json));
    }),
  );
  const request = { program: 'lvs', args: ['-o'], input: 'none', timeoutMs: 1000 };
  const parsed = (change: object) => parseRequest(Buffer.from(JSON.stringify({ ...request, ...change })));
  assert.deepEqual(parsed({}), request);
  for (const change of [
    { program: 7 },
    { args: 'lvs' },
    { args: [7] },
    { args: Array(65).fill('x') },
    { input: 'file' },
    { timeoutMs: -1 },
    { timeoutMs: 1e12 },
    { timeoutMs: null },
  ]) {
    assert.equal(parsed(change), null, JSON.stringify(change));
  }
});
