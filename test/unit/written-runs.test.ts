import assert from 'node:assert/strict';
import { randomInt } from 'node:crypto';
import { test } from 'node:test';
import { writtenRuns } from '#host/storage/written-runs.ts';

const CHUNK = 64 * 1024;

function written(bytes: Buffer): Buffer {
  const onto = Buffer.alloc(bytes.length);
  for (const run of writtenRuns(bytes)) run.bytes.copy(onto, run.at);
  return onto;
}

test('written where all is zero, the runs of any bytes are these bytes', () => {
  for (let round = 0; round < 200; round++) {
    const bytes = Buffer.alloc(randomInt(0, 6 * CHUNK));
    for (let i = randomInt(0, 4); i > 0 && bytes.length > 0; i--) bytes[randomInt(0, bytes.length)] = 1;
    assert.ok(written(bytes).equals(bytes));
  }
});

test('zeros are no run, wherever they stand', () => {
  const bytes = Buffer.alloc(5 * CHUNK + 10);
  bytes[CHUNK] = bytes[3 * CHUNK - 1] = bytes[5 * CHUNK] = 1;
  const runs = [...writtenRuns(bytes)].map((run) => [run.at, run.bytes.length]);
  assert.deepEqual(runs, [
    [CHUNK, 2 * CHUNK],
    [5 * CHUNK, 10],
  ]);
  assert.deepEqual([...writtenRuns(Buffer.alloc(3 * CHUNK))], []);
});
