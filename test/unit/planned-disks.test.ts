import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { NightlatchError } from '#core/errors.ts';
import { type ImageId, newId } from '#core/ids.ts';
import { checkGrowsOnly } from '#core/resize.ts';
import { GIB, MIB } from '#core/sizes.ts';
import type { DiskRow } from '#db/disks.ts';
import { disksToReplace, type PlannedDisk, plannedDisks } from '#operations/planned-disks.ts';

const sizes = fc.record({
  rootGib: fc.integer({ min: 0, max: 4 }),
  ephemeralGib: fc.integer({ min: 0, max: 3 }),
  swapMib: fc.integer({ min: 0, max: 3 }),
});
type Sizes = { rootGib: number; ephemeralGib: number; swapMib: number };
const IMAGE_BYTES = 3 * MIB;

const disksOf = (flavor: Sizes, imageBytes = IMAGE_BYTES) =>
  plannedDisks({ flavor, imageId: newId<ImageId>(), imageBytes, configDrive: true });
const asRows = (disks: readonly PlannedDisk[]) =>
  disks.map(({ role, ordinal, sizeBytes }) => ({ role, ordinal, size_bytes: sizeBytes }) as DiskRow);
const roles = (disks: readonly PlannedDisk[]) => disks.map(({ role }) => role);
const replaced = (from: Sizes, to: Sizes) => roles(disksToReplace(disksOf(to), asRows(disksOf(from))));

test('disks that hold data are replaced all or none, and swap when its size changes', () => {
  const [small, large] = [
    { rootGib: 1, ephemeralGib: 1, swapMib: 8 },
    { rootGib: 2, ephemeralGib: 1, swapMib: 8 },
  ];
  assert.deepEqual(replaced(small, small), []);
  assert.deepEqual(replaced(small, large), ['root', 'ephemeral']);
  assert.deepEqual(replaced(small, { ...small, ephemeralGib: 2 }), ['root', 'ephemeral']);
  assert.deepEqual(replaced({ ...small, ephemeralGib: 0 }, small), ['root', 'ephemeral']);
  assert.deepEqual(replaced(small, { ...small, swapMib: 9 }), ['swap']);
  assert.deepEqual(replaced(small, { ...small, swapMib: 0 }), []);
  assert.deepEqual(replaced({ ...small, swapMib: 0 }, small), ['swap']);
  fc.assert(
    fc.property(sizes, sizes, (from, to) => {
      const data = replaced(from, to).filter((role) => role !== 'swap');
      const all = roles(disksOf(to)).filter((role) => role === 'root' || role === 'ephemeral');
      assert.ok(data.length === 0 || data.length === all.length);
      assert.ok(!replaced(from, to).includes('config-drive'));
    }),
  );
});

test('a server that boots from a volume has no root disk', () => {
  const flavor = { rootGib: 1, ephemeralGib: 1, swapMib: 8 };
  const wanted = plannedDisks({ flavor, imageId: null, imageBytes: 0, configDrive: true });
  assert.deepEqual(roles(wanted), ['ephemeral', 'swap', 'config-drive']);
});

test('what a guest may have written is never cut off', () => {
  fc.assert(
    fc.property(sizes, sizes, fc.integer({ min: 1, max: 4 * GIB }), (from, to, rootBytes) => {
      const isRefused = refuses({ ...from, rootBytes }, to);
      if (isRefused) return;
      const toBytes = to.rootGib === 0 ? rootBytes : to.rootGib * GIB;
      assert.ok(toBytes >= rootBytes && to.ephemeralGib >= from.ephemeralGib);
    }),
  );
  assert.ok(!refuses({ rootGib: 0, ephemeralGib: 1, rootBytes: GIB }, { rootGib: 0, ephemeralGib: 1 }));
  assert.ok(refuses({ rootGib: 0, ephemeralGib: 0, rootBytes: GIB + 512 }, { rootGib: 1, ephemeralGib: 0 }));
  assert.ok(refuses({ rootGib: 1, ephemeralGib: 0, rootBytes: GIB }, { rootGib: 0, ephemeralGib: 0 }));
  assert.ok(refuses({ rootGib: 1, ephemeralGib: 2, rootBytes: GIB }, { rootGib: 2, ephemeralGib: 1 }));
});

function refuses(...[from, to]: Parameters<typeof checkGrowsOnly>): boolean {
  try {
    checkGrowsOnly(from, to);
    return false;
  } catch (error) {
    assert.ok(error instanceof NightlatchError && error.status === 400);
    return true;
  }
}
