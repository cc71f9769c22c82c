import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { XMLParser, XMLValidator } from 'fast-xml-parser';
import { type HostPath, newId, type ServerId } from '#core/ids.ts';
import type { DomainSpec } from '#host/hypervisor/hypervisor.ts';
import { diskXml, domainXml, secretXml } from '#host/hypervisor/libvirt/domain-xml.ts';
import { disksIn, updateSavedXml, uuidOf } from '#host/hypervisor/libvirt/saved-xml.ts';
import { cleanText, element, text } from '#host/hypervisor/libvirt/xml.ts';

const host = {
  virtType: 'qemu',
  consoleSocket: (id: ServerId) => `/run/nl/tty/${id}` as HostPath,
  consoleLog: (id: ServerId) => `/run/nl/console/${id}.log` as HostPath,
} as const;

/** Reads XML strictly: text and attributes as they were written, numbers not guessed. */
const parser = new XMLParser({
  ignoreAttributes: false,
  attributeNamePrefix: '@',
  parseTagValue: false,
  trimValues: false,
  htmlEntities: true,
});

const anyText = fc.oneof(
  fc.string({ unit: 'binary', maxLength: 600 }),
  fc.string({
    unit: fc.constantFrom('<', '&', '>', '"', "'", ']]>', '\r', '\n', '\t', '\0', '\ud800', '\uffff', ';', '#', 'a'),
  }),
);

function server(displayName: string, diskPath = '/data/d.raw'): DomainSpec {
  const disk = {
    attachment: { path: diskPath as HostPath, format: 'raw' },
    target: 'vda',
    device: 'disk',
    serial: 'd1',
    encryption: { format: 'luks', secretUuid: '11111111-1111-4111-8111-111111111111' },
  } as const;
  const size = { vcpus: 1, memoryMib: 64, network: 'user' } as const;
  return { serverId: newId(), name: 'instance-00000001', displayName, projectId: 'p', ...size, disks: [disk] };
}

test('any display name comes back as it was, cut to 255 characters, U+FFFD for what XML cannot hold', () => {
  fc.assert(
    fc.property(anyText, (name) => {
      const xml = domainXml(server(name), host);
      assert.equal(XMLValidator.validate(xml), true);
      const read = parser.parse(xml).domain.metadata['nightlatch:server']['nightlatch:name'];
      assert.equal(read, cleanText(name.slice(0, 255)));
    }),
  );
});

test('a display name of 1 MiB stays small in the XML', () => {
  assert.ok(domainXml(server('<'.repeat(1024 * 1024)), host).length < 10_000);
});

test('any text comes back from an element and an attribute', () => {
  fc.assert(
    fc.property(anyText, (value) => {
      const read = parser.parse(element('e', { a: value }, element('t', {}, text(value)))).e;
      assert.equal(read['@a'], cleanText(value));
      assert.equal(read.t, cleanText(value));
    }),
  );
});

test('an encryption format that QEMU cannot open is refused', () => {
  const spec = server('a');
  const disks = spec.disks.map((disk) => ({ ...disk, encryption: { format: 'luksv2', secretUuid: 'x' } as const }));
  assert.throws(() => domainXml({ ...spec, disks }, host), /encryption format luksv2/);
});

test('a libvirt secret is ephemeral and private', () => {
  const { secret } = parser.parse(secretXml('u', 'a<b'));
  assert.deepEqual(secret, {
    '@ephemeral': 'yes',
    '@private': 'yes',
    uuid: 'u',
    usage: { '@type': 'volume', volume: 'a<b' },
  });
});

test('saved XML keeps all but the paths and secrets that hold now', () => {
  fc.assert(
    fc.property(anyText, fc.string({ unit: 'grapheme-ascii', minLength: 1 }), (name, path) => {
      const then = server(name);
      const disks = server(name, `/new/${path}`).disks.map((disk) => ({
        ...disk,
        encryption: { format: 'luks', secretUuid: '22222222-2222-4222-8222-222222222222' } as const,
      }));
      const saved = domainXml(then, { ...host, consoleSocket: () => '/old' as HostPath });
      const updated = updateSavedXml(saved, { ...then, disks }, host);
      assert.deepEqual(parser.parse(updated), parser.parse(domainXml({ ...then, disks }, host)));
      assert.equal(uuidOf(updated), then.serverId);
    }),
  );
});

test('the disks in an XML are found again: names, serials, paths of any spelling', () => {
  fc.assert(
    fc.property(anyText, fc.string({ unit: 'grapheme-ascii', minLength: 1 }), (name, path) => {
      const spec = server(name, `/data/${path}`);
      const [first] = spec.disks;
      assert.ok(first);
      const device = { ...first, target: 'vdb', serial: 'd2', encryption: null };
      const attachment = { path: `/dev/${path}` as HostPath, format: 'raw', blockDevice: { usedBytes: 512 } } as const;
      const xml = domainXml({ ...spec, disks: [first, { ...device, attachment }] }, host);
      assert.deepEqual(disksIn(xml), [
        { target: 'vda', serial: 'd1', path: `/data/${path}`, copy: null },
        { target: 'vdb', serial: 'd2', path: `/dev/${path}`, copy: null },
      ]);
    }),
  );
  assert.deepEqual(disksIn('<domain/>'), []);
  const mirrored = (ready: string) =>
    `<domain><devices><disk><source file='/a'/><mirror type='block' job='copy'${ready}><source dev='/b &amp; c'/></mirror><target dev='vda'/></disk></devices></domain>`;
  const disk = { target: 'vda', serial: '', path: '/a' };
  assert.deepEqual(disksIn(mirrored('')), [{ ...disk, copy: { path: '/b & c', isReady: false } }]);
  assert.deepEqual(disksIn(mirrored(" ready='yes'")), [{ ...disk, copy: { path: '/b & c', isReady: true } }]);
});

test('a guest sees of a block device only what is the disk’s, by a slice unless that is all', () => {
  const [first] = server('a').disks;
  assert.ok(first);
  const on = (isWhole: boolean) => {
    const blockDevice = { usedBytes: 4096, isWhole };
    return parser.parse(diskXml({ ...first, attachment: { path: '/dev/v' as HostPath, format: 'raw', blockDevice } }))
      .disk;
  };
  assert.deepEqual(on(false).source.slices.slice, { '@type': 'storage', '@offset': '0', '@size': '4096' });
  assert.equal(on(true).source.slices, undefined);
  assert.equal('readonly' in on(true), false);
  assert.equal('readonly' in parser.parse(diskXml({ ...first, readonly: true })).disk, true);
});

test('what is no domain has no UUID', () => {
  assert.equal(uuidOf('<a/>'), null);
  assert.equal(uuidOf(''), null);
});
