import assert from 'node:assert/strict';
import { rename, writeFile } from 'node:fs/promises';
import { after, before, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { cryptMappings, diskKeysInKeyrings, diskVolumes } from '#test/support/volume-group.ts';
import { expectCiphertext, VolumeLab } from '#test/support/volume-lab.ts';

/*
 * A host whose power is cut while servers on logical volumes run: the stages of one life, each in a kernel of its own over
 * the same disks. Who boots those kernels cuts the power once a stage has written its note, and gives it to the next.
 */

const stages = ['servers run', 'their guests are resumed', 'their guests are left off'] as const;
type Servers = Readonly<Record<'luksv2' | 'plain' | 'suspended' | 'underWay', string>>;
type Note = { readonly servers: Servers; readonly letter: string };

const { NIGHTLATCH_TEST_STAGE: stage, NIGHTLATCH_TEST_HOME: home = '', NIGHTLATCH_TEST_NOTE = '' } = process.env;
const noteFile = process.env.NIGHTLATCH_TEST_NOTE_FILE ?? '';
assert.ok(
  stages.some((known) => known === stage),
  `there is no stage ${stage}`,
);
const isLast = stage === stages.at(-1);
const CUT_TIMEOUT_MS = 60_000;

let lab: VolumeLab;
const openLab = async () => {
  const defaults = `resume_guests_state_on_host_boot = ${!isLast}`;
  lab = await VolumeLab.open({ home, defaults });
};

async function awaitPowerCut(note: Note): Promise<never> {
  await writeFile(`${noteFile}.new`, JSON.stringify(note));
  await rename(`${noteFile}.new`, noteFile);
  await sleep(CUT_TIMEOUT_MS);
  throw new Error('the power was not cut');
}

if (stage === 'servers run') {
  before(openLab);

  test('servers run, one is suspended, and one is being made when the power goes', async () => {
    const luksv2 = await lab.create('luksv2');
    const plain = await lab.create('plain', 'root');
    const suspended = await lab.create('luksv2', 'root');
    const letter = await lab.expectBooted(suspended);
    await lab.act(suspended, { suspend: null }, 'SUSPENDED');
    for (const id of [luksv2, plain]) {
      await lab.expectBooted(id);
      await lab.expectOpen(id);
    }
    const underWay = await lab.ask('luksv2', 'root');
    await awaitPowerCut({ servers: { luksv2, plain, suspended, underWay }, letter });
  });
} else {
  const { servers, letter } = JSON.parse(NIGHTLATCH_TEST_NOTE) as Note;
  after(async () => lab?.[Symbol.asyncDispose]());

  test('before the service starts nothing is open, and what the power left is ciphertext', async () => {
    assert.ok((await diskVolumes()).length >= 7, 'the volumes are there');
    assert.deepEqual([await cryptMappings(), await diskKeysInKeyrings()], [[], []]);
    await expectCiphertext(() => true);
  });

  test('the service starts, and each server is what it was, or off where guests are not resumed', async () => {
    await openLab();
    const ran = [servers.luksv2, servers.plain, servers.underWay];
    for (const id of ran) await lab.reach(id, isLast ? 'SHUTOFF' : 'ACTIVE');
    await lab.reach(servers.suspended, 'SUSPENDED');
    const running = isLast ? [] : ran;
    assert.equal((await lab.lab.guests()).length, running.length);
    const owners = new Set((await cryptMappings()).map(({ name }) => name.slice('nl-'.length, 'nl-'.length + 36)));
    assert.deepEqual([...owners].sort(), [...running].sort());
    for (const id of running) {
      await lab.expectBooted(id);
      await lab.expectOpen(id);
    }
    await lab.lab.expectTidy();
    if (!isLast) await awaitPowerCut({ servers, letter });
  });

  test('nothing is lost: what is off starts, and what was suspended goes on where it was', async () => {
    for (const id of [servers.luksv2, servers.plain]) {
      await lab.act(id, { 'os-start': null }, 'ACTIVE');
      await lab.expectBooted(id);
      await lab.expectOpen(id);
    }
    await lab.act(servers.suspended, { resume: null }, 'ACTIVE');
    await lab.expectLetter(servers.suspended, letter);
    await lab.expectOpen(servers.suspended);
  });

  test('deleted, nothing of them is left', async () => {
    for (const id of Object.values(servers)) await lab.lab.delete(id);
    assert.deepEqual([await cryptMappings(), await diskVolumes(), await diskKeysInKeyrings()], [[], [], []]);
    await lab.lab.expectTidy();
  });
}
