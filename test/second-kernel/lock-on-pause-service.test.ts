import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { cryptMappings, diskKeysInKeyrings } from '#test/support/volume-group.ts';
import { VolumeLab } from '#test/support/volume-lab.ts';

/* `[libvirt] lock_on_pause` through the API: a paused server has no lease and no key in the kernel. */

const PAUSE = { pause: null };
const UNPAUSE = { unpause: null };

let lab: VolumeLab;
before(async () => {
  lab = await VolumeLab.open({ more: 'lock_on_pause = true' });
});
after(async () => lab[Symbol.asyncDispose]());

async function expectForgotten(id: string): Promise<void> {
  await lab.reach(id, 'PAUSED');
  assert.equal(await lab.lab.leasesOf(id), 0);
  const mappings = await cryptMappings();
  assert.ok(mappings.length > 0, 'its disks stay open');
  for (const { key, suspended } of mappings) assert.deepEqual([suspended, /^(0+|-)$/.test(key)], [true, true], key);
  assert.deepEqual(await diskKeysInKeyrings(), []);
  await lab.expectCiphertext(id);
}

async function expectGoesOn(id: string, letter: string): Promise<void> {
  await lab.reach(id, 'ACTIVE');
  await lab.expectLetter(id, letter);
  await lab.expectOpen(id);
}

describe(`a server with luksv2 disks on a host that forgets keys of the paused`, { timeout: 3_600_000 }, () => {
  test('is paused without its keys, and goes on with them', async () => {
    const id = await lab.create('luksv2');
    const letter = await lab.expectBooted(id);
    await lab.act(id, PAUSE, 'PAUSED');
    await expectForgotten(id);
    await lab.act(id, UNPAUSE, 'ACTIVE');
    await expectGoesOn(id, letter);
  });
});
