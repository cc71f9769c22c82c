import assert from 'node:assert/strict';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { buffer } from 'node:stream/consumers';
import { after, before, describe, test } from 'node:test';
import { NightlatchError } from '#core/errors.ts';
import { readFrom, writeTo } from '#host/exec-stream.ts';

const DOING = 'Copying for a test';
const code = (expected: string) => (error: unknown) => error instanceof NightlatchError && error.code === expected;

describe('bytes to and from a program', () => {
  let folder: string;
  before(async () => {
    folder = await mkdtemp(join(tmpdir(), 'nl-stream-'));
  });
  after(() => rm(folder, { recursive: true }));

  async function* pieces(count: number, failing = false): AsyncIterable<Buffer> {
    for (let i = 0; i < count; i++) yield Buffer.alloc(1024 * 1024, i);
    if (failing) throw new Error('the source broke off');
  }

  test('arrive as they were', async () => {
    const file = join(folder, 'in');
    await writeFile(file, Buffer.alloc(3_000_000, 'x'));
    const read = await buffer(readFrom('openssl', ['enc', '-base64', '-A', '-in', file], DOING));
    assert.equal(read.toString(), Buffer.alloc(3_000_000, 'x').toString('base64'));
    const out = join(folder, 'out');
    await writeTo('openssl', ['enc', '-base64', '-A', '-out', out], pieces(2), DOING);
    const sent = Buffer.concat([Buffer.alloc(1024 * 1024, 0), Buffer.alloc(1024 * 1024, 1)]);
    assert.equal(await readFile(out, 'utf8'), sent.toString('base64'));
  });

  test('of a program that fails are not whole: the stream fails as the program', async () => {
    const stream = readFrom('openssl', ['enc', '-base64', '-in', join(folder, 'nothing')], DOING);
    await assert.rejects(buffer(stream), code('program-failed'));
    await assert.rejects(writeTo('openssl', ['enc', '-nonsense'], pieces(64), DOING), code('program-failed'));
  });

  test('that break off at their source end the program, and are told as the source tells it', async () => {
    const args = ['enc', '-base64', '-out', join(folder, 'part')];
    await assert.rejects(writeTo('openssl', args, pieces(2, true), DOING), /the source broke off/);
  });

  test('that nobody reads any more end the program', async () => {
    const stream = readFrom('openssl', ['rand', '1000000000'], DOING);
    for await (const piece of stream) {
      assert.ok(piece.length > 0);
      break;
    }
    assert.equal(stream.destroyed, true);
  });
});
