import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { markerPlaces, markerScript, markersFor, readMarkerReport } from '#cli/guest-image/guest-script.ts';
import { type KernelModule, loadOrder, readDepends } from '#cli/guest-image/kernel-modules.ts';

const moduleNames = fc.array(fc.stringMatching(/^[a-z][a-z0-9_]{0,15}$/), { maxLength: 6 });

describe("a kernel module's dependencies", () => {
  test('are read back from any .modinfo, whatever bytes lie around it', () => {
    const around = fc.uint8Array({ maxLength: 64 }).map((bytes) => Buffer.from(bytes));
    fc.assert(
      fc.property(moduleNames, around, around, (names, before, after) => {
        const info = Buffer.from(`\0license=GPL\0depends=${names.join(',')}\0intree=Y\0`, 'latin1');
        assert.deepEqual(readDepends(Buffer.concat([before, info, after])), names);
      }),
    );
  });

  test('are null for bytes that are no module', () => {
    assert.equal(readDepends(Buffer.from('\x7fELF and no such string')), null);
    assert.equal(readDepends(Buffer.from('\0depends=virtio')), null);
  });

  test('give one name to a module that is spelled with - or _', () => {
    assert.deepEqual(readDepends(Buffer.from('\0depends=crc-t10dif,scsi_mod\0')), ['crc_t10dif', 'scsi_mod']);
  });
});

describe('the load order', () => {
  test('has every module once, after all it depends on', () => {
    // A module depends only on modules with a smaller number, so that there is no circle.
    const graph = fc.array(fc.array(fc.nat(), { maxLength: 4 }), { minLength: 1, maxLength: 20 });
    fc.assert(
      fc.property(graph, (needs) => {
        const modules = needs.map((list, i) => module(`m${i}`, i === 0 ? [] : list.map((n) => `m${n % i}`)));
        const order = loadOrder(
          modules.map(({ name }) => name),
          new Map(modules.map((each) => [each.name, each])),
        );
        assert.equal(new Set(order).size, modules.length);
        for (const [i, { depends }] of order.entries()) {
          for (const needed of depends) assert.ok(order.slice(0, i).some(({ name }) => name === needed));
        }
      }),
    );
  });

  test('names the module that the kernel package lacks', () => {
    const known = new Map([['sr_mod', module('sr_mod', ['cdrom'])]]);
    assert.throws(() => loadOrder(['sr_mod'], known), /no module cdrom/);
  });
});

describe('the marker script', () => {
  test('contains no whole marker', () => {
    fc.assert(
      fc.property(fc.stringMatching(/^[A-Za-z0-9-]{4,40}$/), (prefix) => {
        const markers = markersFor(prefix);
        const script = markerScript({ markers });
        assert.match(script, /^#cloud-boothook\n#!\/bin\/sh\n/);
        for (const marker of Object.values(markers)) assert.ok(!script.includes(marker));
      }),
    );
  });

  test('refuses markers that a shell or a search could misread', () => {
    const markers = markersFor('nl-unit');
    assert.throws(() => markerScript({ markers: { ...markers, swap: "a'; reboot; '" } }), /swap marker/);
    assert.throws(() => markerScript({ markers: { ...markers, swap: 'short' } }), /swap marker/);
    assert.throws(() => markerScript({ markers: { ...markers, swap: `${markers.root}-2` } }), /contains another/);
  });
});

describe('a marker report', () => {
  test('is read back from its line', () => {
    const state = fc.constantFrom('found', 'lost', 'absent');
    fc.assert(
      fc.property(fc.uuid(), fc.tuple(state, state, state, state), (bootId, states) => {
        const said = markerPlaces.map((place, i) => `${place}=${states[i]}`).join(' ');
        const report = readMarkerReport(`NIGHTLATCH markers boot=${bootId} ${said}`);
        assert.deepEqual(report, {
          bootId,
          states: Object.fromEntries(markerPlaces.map((place, i) => [place, states[i]])),
        });
      }),
    );
  });

  test('is null for any other line', () => {
    fc.assert(fc.property(fc.string(), (line) => readMarkerReport(line) === null));
    assert.equal(readMarkerReport('NIGHTLATCH markers boot= root=found'), null);
  });
});

function module(name: string, depends: readonly string[]): KernelModule {
  return { name, path: `${name}.ko`, depends };
}
