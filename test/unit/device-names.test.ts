import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { chooseDevice, ownDevices } from '#operations/device-names.ts';

test('the names of a running server’s own disks stay, whatever volumes come and go, and no volume has one of them', () => {
  const step = fc.oneof(
    fc.record({ what: fc.constant('attach' as const), wished: fc.constantFrom(null, '/dev/vdb', 'vdc', '/dev/vdd') }),
    fc.record({ what: fc.constant('detach' as const), which: fc.nat(5) }),
    fc.record({ what: fc.constant('resize' as const), count: fc.integer({ min: 1, max: 4 }) }),
  );
  fc.assert(
    fc.property(fc.array(step, { maxLength: 20 }), (steps) => {
      const [live, ever] = [new Set<string>(), new Set<string>()];
      let count = 2;
      for (const each of steps) {
        const own = ownDevices(count, ever);
        if (each.what === 'resize') count = each.count;
        else if (each.what === 'detach') live.delete([...live][each.which] ?? '');
        else {
          const device = deviceOrNull(new Set([...live, ...own]), each.wished);
          if (device !== null) for (const names of [live, ever]) names.add(device);
          assert.deepEqual(ownDevices(count, ever), own);
        }
        assert.equal(new Set([...live, ...ownDevices(count, ever)]).size, live.size + count);
        assert.ok(ever.has('/dev/vda') || ownDevices(count, ever)[0] === '/dev/vda');
      }
    }),
  );
});

function deviceOrNull(taken: ReadonlySet<string>, wished: string | null): string | null {
  try {
    return chooseDevice(taken, wished);
  } catch {
    return null;
  }
}

test('a name that is taken, or none that a volume can have, is refused', () => {
  assert.throws(() => chooseDevice(new Set(['/dev/vdb']), 'vdb'), /is in use/);
  assert.throws(() => chooseDevice(new Set(), '/dev/sdb'), /is invalid/);
  assert.equal(chooseDevice(new Set(['/dev/vda', '/dev/vdb']), null), '/dev/vdc');
});
