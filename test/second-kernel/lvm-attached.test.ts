import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { Readable } from 'node:stream';
import { after, before, test } from 'node:test';
import pino from 'pino';
import { parseConfig } from '#config/load.ts';
import type { DiskSpec } from '#core/disk.ts';
import type { EncryptionFormat } from '#core/encryption-intent.ts';
import { NightlatchError } from '#core/errors.ts';
import { type BackendName, type DiskId, type ImageId, newId, type ServerId, type VolumeId } from '#core/ids.ts';
import { Secret } from '#core/secret.ts';
import { LUKS1_HEADER_BYTES, LUKS2_HEADER_BYTES, MIB } from '#core/sizes.ts';
import type { ServerSpec } from '#host/host-agent.ts';
import { type LocalHost, openLocalHost } from '#main/local-host.ts';
import { statePaths } from '#main/state-paths.ts';
import { bootSector } from '#test/support/boot-sector.ts';
import { tell } from '#test/support/disk-lab.ts';
import { waitUntil } from '#test/support/wait.ts';

/** Volumes on logical volumes, of a whole host with a real libvirt and a guest that lets go of nothing. */
const GROUP = process.env.NIGHTLATCH_TEST_VOLUME_GROUP ?? '';
/** Whole extents: a clear volume is all of its logical volume. */
const SIZE = 32 * MIB;
const LARGER = 48 * MIB;
let host: LocalHost;
let directory: string;
before(async () => {
  directory = await mkdtemp('/var/tmp/nl-');
  const text = `[DEFAULT]\nstate_path = "${directory}"\n[libvirt]\nimages_type = "raw"\nvirt_type = "qemu"\n[volume_backends.group]\nvolume_driver = "lvm"\nvolume_group = "${GROUP}"\n`;
  host = await openLocalHost(parseConfig(text, 'test'), statePaths(directory), pino({ level: 'silent' }));
});
after(async () => {
  for (const { id } of (await host.agent.inventory()).servers) await host.agent.stopServer(id, [], 0);
  await host[Symbol.asyncDispose]();
  await rm(directory, { recursive: true, force: true });
});

const numbers = { ordinal: 0, generation: 0 } as const;
const crypt = () =>
  tell('dmsetup', 'table')
    .text.split('\n')
    .filter((line) => / crypt /.test(line));
const code = (expected: string) => (error: unknown) => error instanceof NightlatchError && error.code === expected;

function someVolume(encryption: EncryptionFormat | null, sizeBytes = SIZE): DiskSpec {
  const place = { backend: 'group' as BackendName, storage: 'lvm', role: 'volume' } as const;
  return {
    id: newId<DiskId>(),
    ownerId: newId<VolumeId>(),
    secretId: newId(),
    ...numbers,
    ...place,
    sizeBytes,
    encryption,
  };
}

async function image(bytes: Buffer): Promise<ImageId> {
  const imageId = newId<ImageId>();
  const open = async () => Readable.from([bytes], { objectMode: false });
  await host.agent.cacheImage(imageId, { format: 'raw', isEncrypted: false, open });
  return imageId;
}

/** What a locked volume begins with, by way of a clear copy of it. */
async function beginning(from: DiskSpec, key: Secret): Promise<string> {
  const clear = someVolume(null, from.sizeBytes);
  try {
    await host.agent.createDisk(clear, { kind: 'disk', from }, new Map([[from.id, key]]));
    return tell('head', '-c', '6', `/dev/${GROUP}/volume-${clear.ownerId}`).text;
  } finally {
    await host.agent.destroyDisk(clear);
  }
}

test('a backend on logical volumes says what it can do', async () => {
  const { volumeBackends, problems } = await host.agent.describe();
  assert.deepEqual(problems, []);
  assert.deepEqual(volumeBackends[0]?.formats, ['luks', 'luksv2', 'plain']);
});

for (const format of ['luksv2', 'plain', 'luks', null] as const) {
  test(`a volume (${format ?? 'not encrypted'}): cloned, rekeyed, attached, grown, and locked with its guest`, async () => {
    const { agent } = host;
    const [key, to] = [Secret.generate(), Secret.generate()];
    const hasHeader = format === 'luks' || format === 'luksv2';
    const isDevice = format === 'luksv2' || format === 'plain';
    const disk = someVolume(format);
    const keys = new Map([[disk.id, key]]);
    await agent.createDisk(disk, { kind: 'image', imageId: await image(Buffer.from('MARKER'.padEnd(512))) }, keys);
    assert.equal(await beginning(disk, key), 'MARKER');
    let bytes = 0;
    for await (const chunk of await agent.openMedium(disk)) bytes += (chunk as Buffer).length;
    const header = format === 'luks' ? LUKS1_HEADER_BYTES : format === 'luksv2' ? LUKS2_HEADER_BYTES : 0;
    assert.equal(bytes, header + SIZE);

    const clone = someVolume(format, LARGER);
    const both = new Map([...keys, [clone.id, to]]);
    if (format === 'plain') {
      await assert.rejects(agent.createDisk(clone, { kind: 'clone', from: disk }, both), code('not-implemented'));
      await assert.rejects(agent.rekeyDisk(disk, { from: key, to }, newId()), code('not-implemented'));
    } else {
      await agent.createDisk(clone, { kind: 'clone', from: disk }, both);
      assert.equal(await beginning(clone, to), 'MARKER');
      if (hasHeader) await assert.rejects(beginning(clone, key), code('disk-wrong-key'));
    }
    await agent.destroyDisk(clone);
    const restored = someVolume(format, LARGER);
    const medium = { kind: 'medium', keyId: disk.id, sizeBytes: SIZE, format: 'raw' } as const;
    const open = () => agent.openMedium(disk);
    await agent.createDisk(restored, { ...medium, open }, new Map([...keys, [restored.id, to]]));
    assert.equal(await beginning(restored, to), 'MARKER');
    await agent.destroyDisk(restored);
    assert.deepEqual(crypt(), []);

    const id = newId<ServerId>();
    const place = { backend: null, role: 'root', storage: 'raw', encryption: null, secretId: null } as const;
    const root: DiskSpec = { id: newId<DiskId>(), ownerId: id, ...numbers, ...place, sizeBytes: MIB };
    await agent.createDisk(root, { kind: 'image', imageId: await image(bootSector()) }, new Map());
    const shape = { vcpus: 1, memoryMib: 64, network: 'none', name: 'instance-00000001', displayName: 'one' } as const;
    const server: ServerSpec = { id, projectId: 'p', ...shape, disks: [root], targets: ['vda'], volumes: [] };
    await agent.startServer(server, new Map());
    const volume = { disk, target: 'vdb' };
    const openMappings = isDevice ? 1 : 0;
    for (let time = 0; time < 2; time++) await agent.attachVolume(server, volume, keys);
    await agent.lockStrays();
    assert.equal(crypt().length, openMappings, 'a restart of the agent takes no volume from a guest');
    const larger = { ...disk, sizeBytes: LARGER };
    if (format === 'luks') {
      await assert.rejects(agent.growDisk(larger, SIZE, keys, id), /where QEMU decrypts a logical volume/);
    } else {
      for (let time = 0; time < 2; time++) await agent.growDisk(larger, SIZE, keys, id);
      for (const line of crypt()) assert.match(line, new RegExp(`: 0 ${LARGER / 512} crypt`));
    }
    if (hasHeader) await agent.rekeyDisk(disk, { from: key, to }, newId());
    await assert.rejects(agent.detachVolume(id, volume), code('volume-not-released'));
    assert.equal(crypt().length, openMappings);
    await agent.stopServer(id, [root, disk], 0);
    assert.deepEqual(crypt(), []);
    await agent.detachVolume(id, volume);
    const now = format === 'luks' ? disk : larger;
    assert.equal(await beginning(now, hasHeader ? to : key), 'MARKER');
    for (const each of [root, now]) await agent.destroyDisk(each);
    assert.equal(tell('lvs', '--noheadings', '--select', `lv_name=~"volume-"`, GROUP).text.trim(), '');
  });
}

const moves = [
  ['luksv2', 'luksv2'],
  ['luksv2', 'luks'],
  ['luks', null],
  [null, 'plain'],
] as const;
for (const [format, other] of moves) {
  test(`a volume (${format ?? 'not encrypted'}) is mirrored onto another (${other ?? 'not encrypted'}) under its guest`, async () => {
    const { agent } = host;
    const [key, toKey] = [Secret.generate(), Secret.generate()];
    const from = someVolume(format);
    const to: DiskSpec = { ...someVolume(other), ownerId: from.ownerId, generation: 1 };
    const mirror = { from, to };
    const keys = new Map([[from.id, key]]);
    const open = (...formats: (EncryptionFormat | null)[]) =>
      assert.equal(crypt().length, formats.filter((each) => each === 'luksv2' || each === 'plain').length);
    await agent.createDisk(from, { kind: 'image', imageId: await image(Buffer.from('MARKER'.padEnd(512))) }, keys);
    const id = newId<ServerId>();
    const place = { backend: null, role: 'root', storage: 'raw', encryption: null, secretId: null } as const;
    const root: DiskSpec = { id: newId<DiskId>(), ownerId: id, ...numbers, ...place, sizeBytes: MIB };
    await agent.createDisk(root, { kind: 'image', imageId: await image(bootSector()) }, new Map());
    const shape = { vcpus: 1, memoryMib: 64, network: 'none', name: 'instance-00000002', displayName: 'two' } as const;
    const server: ServerSpec = { id, projectId: 'p', ...shape, disks: [root], targets: ['vda'], volumes: [] };
    await agent.startServer(server, new Map());
    await agent.attachVolume(server, { disk: from, target: 'vdb' }, keys);

    await agent.mirrorDisk(id, mirror, new Map([[to.id, toKey]]), MIB);
    open(format, other);
    await agent.endMirror(id, mirror);
    open(format);
    await agent.mirrorDisk(id, mirror, new Map([[to.id, toKey]]), 0);
    await agent.lockStrays();
    open(format, other);
    await waitUntil(
      'the mirror is ready',
      async () => {
        const state = await agent.mirrorState(id, mirror);
        return state.kind === 'mirrored' && state.isReady;
      },
      120_000,
    );
    for (let time = 0; time < 2; time++) await agent.switchToMirror(id, mirror);
    open(other);
    await agent.unpauseServer(id);
    await agent.lockStrays();
    open(other);
    await agent.destroyDisk(from);
    await agent.stopServer(id, [root, to], 0);
    open();
    assert.equal(await beginning(to, toKey), 'MARKER');
    for (const each of [root, to]) await agent.destroyDisk(each);
    assert.equal(tell('lvs', '--noheadings', '--select', `lv_name=~"volume-"`, GROUP).text.trim(), '');
  });
}
