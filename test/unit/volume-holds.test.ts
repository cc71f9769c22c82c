import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { newId, type VolumeId } from '#core/ids.ts';
import { VolumeHolds } from '#operations/volume-holds.ts';

const nobody = async () => null;
const patient = async () => {};

test('who works on a locked volume, and a guest that starts with it, wait for each other', async () => {
  const holds = new VolumeHolds();
  const [a, b] = [newId<VolumeId>(), newId<VolumeId>()];
  const done: string[] = [];
  const { promise: copied, resolve: finishCopy } = Promise.withResolvers<void>();
  const copying = holds.unlessOpen(a, nobody, async () => {
    await copied;
    done.push('copied');
  });
  const starting = (async () => {
    using _held = await holds.forStart([b, a], patient);
    done.push('started');
    await sleep(300);
    done.push('runs');
  })();
  await sleep(300);
  assert.equal(done.join(), '');
  finishCopy();
  await copying;
  const next = holds.unlessOpen(a, nobody, async () => {
    done.push('copied again');
  });
  await Promise.all([starting, next]);
  const orders = ['copied,started,runs,copied again', 'copied,copied again,started,runs'];
  assert.ok(orders.includes(done.join()), done.join());
});

test('what a guest has open is held by nobody', async () => {
  const holds = new VolumeHolds();
  const id = newId<VolumeId>();
  await holds.unlessOpen(
    id,
    async () => 'guest',
    async (guest) => {
      assert.equal(guest, 'guest');
      using ending = await holds.forEnd([id]);
      assert.ok(ending.lockable.has(id));
    },
  );
});

test('a guest that ends leaves a volume that is worked on alone, and nobody begins to until it has ended', async () => {
  const holds = new VolumeHolds();
  const [worked, free] = [newId<VolumeId>(), newId<VolumeId>()];
  const { promise, resolve } = Promise.withResolvers<void>();
  const working = holds.unlessOpen(worked, nobody, () => promise);
  let looked = false;
  const look = async () => {
    looked = true;
    return null;
  };
  {
    using ending = await holds.forEnd([worked, free]);
    assert.deepEqual([...ending.lockable], [free]);
    void holds.unlessOpen(free, look, patient);
    await sleep(300);
    assert.equal(looked, false);
  }
  resolve();
  await working;
  await sleep(300);
  assert.equal(looked, true);
});

test('a start that is taken over waits no longer, and gives back what it had', async () => {
  const holds = new VolumeHolds();
  const [a, b] = [newId<VolumeId>(), newId<VolumeId>()].toSorted() as [VolumeId, VolumeId];
  const { promise, resolve } = Promise.withResolvers<void>();
  const working = holds.unlessOpen(b, nobody, () => promise);
  const givesUp = async () => {
    throw new Error('taken over');
  };
  await assert.rejects(holds.forStart([a, b], givesUp), /taken over/);
  await holds.unlessOpen(a, nobody, patient);
  resolve();
  await working;
  using _held = await holds.forStart([a, b], givesUp);
});

test('work that fails holds nothing afterwards', async () => {
  const holds = new VolumeHolds();
  const id = newId<VolumeId>();
  const fail = async () => {
    throw new Error('no');
  };
  await assert.rejects(holds.unlessOpen(id, fail, patient), /no/);
  await assert.rejects(holds.unlessOpen(id, nobody, fail), /no/);
  using _held = await holds.forStart([id], fail);
});
