import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { buffer } from 'node:stream/consumers';
import { after, before, describe, test } from 'node:test';
import pino from 'pino';
import { parseConfig } from '#config/load.ts';
import type { DiskSpec, FileFormat } from '#core/disk.ts';
import { NightlatchError } from '#core/errors.ts';
import { type BackendName, type DiskId, type ImageId, newId, type ServerId, type VolumeId } from '#core/ids.ts';
import { Secret } from '#core/secret.ts';
import { MIB } from '#core/sizes.ts';
import { run } from '#host/exec.ts';
import { findGuestProcesses } from '#host/guest-process.ts';
import type { AttachedVolume, DiskKeys, MirroredDisk, ServerSpec } from '#host/host-agent.ts';
import { diskFile } from '#host/storage/disk-file.ts';
import { type LocalHost, openLocalHost } from '#main/local-host.ts';
import { statePaths } from '#main/state-paths.ts';
import { bootSector } from '#test/support/boot-sector.ts';
import { holds } from '#test/support/disk-lab.ts';
import { testGuestImage } from '#test/support/guest-image.ts';
import { GuestShell, shellConfigDrive } from '#test/support/guest-shell.ts';
import { GuestWriter } from '#test/support/guest-writer.ts';
import { waitUntil } from '#test/support/wait.ts';

/** A whole host with volumes, with a real libvirt and real guests, as the control plane would drive it. */
const SIZE = 32 * MIB + 512;
const LARGER = 48 * MIB + 512;
const kinds = [
  { backend: 'slow' as BackendName, storage: 'raw', encryption: 'luks' },
  { backend: 'fast' as BackendName, storage: 'qcow2', encryption: 'luks' },
  { backend: 'slow' as BackendName, storage: 'raw', encryption: null },
  { backend: 'fast' as BackendName, storage: 'qcow2', encryption: null },
] as const;
type Kind = (typeof kinds)[number];

let host: LocalHost;
let directory: string;
before(async () => {
  directory = await mkdtemp('/var/tmp/nl-');
  const text = `[DEFAULT]\nstate_path = "${directory}"\n[libvirt]\nimages_type = "raw"\nvirt_type = "qemu"\n[volume_backends.slow]\n[volume_backends.fast]\nvolume_driver = "qcow2"\n`;
  host = await openLocalHost(parseConfig(text, 'test'), statePaths(directory), pino({ level: 'silent' }));
});
after(async () => {
  for (const { id } of (await host.agent.inventory()).servers) await host.agent.stopServer(id, [], 0);
  await host[Symbol.asyncDispose]();
  await rm(directory, { recursive: true, force: true });
});

const code = (expected: string) => (error: unknown) => {
  assert.ok(error instanceof NightlatchError, String(error));
  return error.code === expected || assert.fail(`${error.code}: ${error.message}`);
};
const textOf = ({ storage, encryption }: Kind) => `${storage}, ${encryption ?? 'not encrypted'}`;

function someVolume(kind: Kind, sizeBytes = SIZE): DiskSpec {
  const numbers = { ordinal: 0, generation: 0, sizeBytes };
  return { id: newId<DiskId>(), ownerId: newId<VolumeId>(), secretId: newId(), role: 'volume', ...numbers, ...kind };
}
/** Where a volume lies, as an operator would look for it. */
const fileOf = (disk: DiskSpec) => diskFile(`${directory}/volumes/${disk.backend}`, disk);

async function blank(kind: Kind, key: Secret): Promise<DiskSpec> {
  const disk = someVolume(kind);
  await host.agent.createDisk(disk, { kind: 'blank' }, new Map([[disk.id, key]]));
  return disk;
}

/** By QEMU's own tools: how many bytes a locked disk has and what they are, or, given some, with those at an offset first. */
async function plaintext(disk: DiskSpec, key: Secret, write?: { at: number; text: string }): Promise<Buffer> {
  const file = `file.filename=${fileOf(disk)}`;
  const driver =
    disk.encryption === null
      ? disk.storage
      : disk.storage === 'raw'
        ? 'luks,key-secret=s0'
        : 'qcow2,encrypt.key-secret=s0';
  const secret = ['--object', 'secret,id=s0,file=/dev/fd/3'];
  const image = ['--image-opts', `driver=${driver},${file}`];
  const doing = `Looking at disk ${disk.id}`;
  if (write) {
    const text = join(directory, 'text');
    await writeFile(text, Buffer.alloc(512, write.text));
    await run('qemu-io', [...secret, ...image, '-c', `write -s ${text} ${write.at} 512`], { doing, fd3: key });
  }
  const out = join(directory, 'plaintext');
  await run('qemu-img', ['convert', ...secret, ...image, '-O', 'raw', out], { doing, fd3: key });
  return await readFile(out);
}

test('a host tells of its backends', async () => {
  const { volumeBackends, problems } = await host.agent.describe();
  assert.deepEqual(problems, []);
  assert.deepEqual(
    volumeBackends.map(({ capacityGib, ...rest }) => ({ ...rest, hasRoom: capacityGib > 0 })),
    [
      { name: 'slow', volumeBackendName: 'slow', storage: 'raw', formats: ['luks'], hasRoom: true },
      { name: 'fast', volumeBackendName: 'fast', storage: 'qcow2', formats: ['luks'], hasRoom: true },
    ],
  );
});

for (const kind of kinds) {
  describe(`a volume (${textOf(kind)})`, { timeout: 240_000 }, () => {
    const isEncrypted = kind.encryption !== null;

    test('is cloned with a key of its own, larger if asked, and shares nothing with its source', async () => {
      const [key, own] = [Secret.generate(), Secret.generate()];
      const source = await blank(kind, key);
      await plaintext(source, key, { at: SIZE - 512, text: 'END' });
      const before = await plaintext(source, key, { at: 0, text: 'MARKER' });
      const clone = { ...someVolume(kind, LARGER), role: 'volume' } as const;
      const keys: DiskKeys = new Map([
        [source.id, key],
        [clone.id, own],
      ]);
      for (let time = 0; time < 2; time++) await host.agent.createDisk(clone, { kind: 'clone', from: source }, keys);
      const cloned = await plaintext(clone, own);
      assert.equal(cloned.length, LARGER);
      assert.ok(cloned.subarray(0, SIZE).equals(before));
      if (isEncrypted) {
        await assert.rejects(plaintext(clone, key), /Invalid password/);
        await assert.rejects(plaintext(source, own), /Invalid password/);
      }
      await plaintext(clone, own, { at: 0, text: 'OTHER' });
      assert.ok((await plaintext(source, key)).equals(before));
      await host.agent.destroyDisk(source);
      assert.equal((await plaintext(clone, own)).toString('latin1', 0, 5), 'OTHER');
      await host.agent.destroyDisk(clone);
    });

    test('is made from its bytes, as a backup has them, with another key; damaged ones are told', async () => {
      const [key, own] = [Secret.generate(), Secret.generate()];
      const source = await blank(kind, key);
      const before = await plaintext(source, key, { at: SIZE - 512, text: 'END' });
      const bytes = await buffer(await host.agent.openMedium(source));
      const restored = someVolume(kind, LARGER);
      const keys: DiskKeys = new Map([
        [source.id, key],
        [restored.id, own],
      ]);
      const from = (all: Buffer) => {
        const facts = { keyId: source.id, sizeBytes: SIZE, format: kind.storage as FileFormat };
        return { kind: 'medium', ...facts, open: async () => Readable.from([all], { objectMode: false }) } as const;
      };
      await host.agent.createDisk(restored, from(bytes), keys);
      const now = await plaintext(restored, own);
      assert.equal(now.length, LARGER);
      assert.ok(now.subarray(0, SIZE).equals(before));
      if (isEncrypted) await assert.rejects(plaintext(restored, key), /Invalid password/);
      if (kind.storage === 'raw') {
        for (const damaged of [bytes.subarray(0, -1), Buffer.concat([bytes, bytes.subarray(0, 1)])]) {
          await assert.rejects(host.agent.createDisk(restored, from(damaged), keys), code('medium-damaged'));
        }
      }
      for (const disk of [source, restored]) await host.agent.destroyDisk(disk);
    });

    test('is given another key; a repeat is fine; without a header it is told that it cannot be', async () => {
      const [from, to] = [Secret.generate(), Secret.generate()];
      const disk = await blank(kind, from);
      if (!isEncrypted) return await assert.rejects(host.agent.rekeyDisk(disk, { from, to }, newId()), /not encrypted/);
      const before = await plaintext(disk, from, { at: 0, text: 'MARKER' });
      for (let time = 0; time < 2; time++) await host.agent.rekeyDisk(disk, { from, to }, newId());
      assert.ok((await plaintext(disk, to)).equals(before));
      await assert.rejects(plaintext(disk, from), /Invalid password/);
      const [one, other] = [Secret.generate(), Secret.generate()];
      await assert.rejects(host.agent.rekeyDisk(disk, { from: one, to: other }, newId()), code('disk-wrong-key'));
      await host.agent.destroyDisk(disk);
    });

    test('grows while it is locked, exactly', async () => {
      const key = Secret.generate();
      const disk = await blank(kind, key);
      await plaintext(disk, key, { at: SIZE - 512, text: 'END' });
      const larger = { ...disk, sizeBytes: LARGER };
      for (let time = 0; time < 2; time++) await host.agent.growDisk(larger, SIZE, new Map(), null);
      const now = await plaintext(larger, key);
      assert.equal(now.length, LARGER);
      assert.equal(now.toString('latin1', SIZE - 512, SIZE - 506), 'ENDEND');
      await host.agent.destroyDisk(larger);
    });
  });
}

describe('volumes of a guest that runs', { timeout: 580_000 }, () => {
  const id = newId<ServerId>();
  const key = Secret.generate();
  const own = (role: 'root' | 'config-drive', sizeBytes: number): DiskSpec => {
    const kind = {
      role,
      storage: 'raw',
      encryption: null,
      secretId: null,
      backend: null,
      ordinal: 0,
      generation: 0,
    } as const;
    return { id: newId<DiskId>(), ownerId: id, sizeBytes, ...kind };
  };
  const disks = [own('root', 64 * MIB), own('config-drive', MIB)];
  const server: ServerSpec = {
    id,
    ...{ name: 'instance-00000001', displayName: 'one', projectId: 'p', vcpus: 1, memoryMib: 128, network: 'none' },
    disks,
    targets: ['vda', 'vdb'],
    volumes: [],
  };
  let guest: GuestShell;
  before(async () => {
    const imageId = newId<ImageId>();
    const { path } = await testGuestImage();
    const open = async () => Readable.from([await readFile(path)], { objectMode: false });
    await host.agent.cacheImage(imageId, { format: 'raw', isEncrypted: false, open });
    const [root, drive] = disks as [DiskSpec, DiskSpec];
    await host.agent.createDisk(root, { kind: 'image', imageId }, new Map());
    await host.agent.createDisk(drive, { kind: 'config-drive', files: shellConfigDrive(id) }, new Map());
    await host.agent.startServer(server, new Map());
    guest = await GuestShell.open(host.agent, id);
  });
  after(() => guest?.[Symbol.dispose]());

  /** The guest's name of a volume, which it finds by the volume's id; empty: it has none such. */
  const deviceOf = ({ ownerId }: DiskSpec) =>
    guest.run(`grep -l ${ownerId.slice(0, 20)} /sys/block/vd*/serial | cut -d/ -f4`);
  const bytesOf = async (disk: DiskSpec) =>
    Number(await guest.run(`blockdev --getsize64 /dev/${await deviceOf(disk)}`));
  /** Its guest sees a volume a moment after it was given it. */
  const arrives = (disk: DiskSpec) =>
    waitUntil(`volume ${disk.ownerId} is there`, async () => (await deviceOf(disk)) !== '');
  const write = async (disk: DiskSpec, at: number, text: string) =>
    await guest.run(
      `printf ${text} | dd of=/dev/${await deviceOf(disk)} bs=512 seek=${at / 512} conv=notrunc,fsync 2>/dev/null`,
    );
  /** From the medium, not from the guest's memory. */
  const read = async (disk: DiskSpec, at: number, length: number) =>
    await guest.run(
      `echo 3 >/proc/sys/vm/drop_caches; dd if=/dev/${await deviceOf(disk)} bs=512 skip=${at / 512} count=1 2>/dev/null | head -c ${length}`,
    );
  const marker = randomBytes(8).toString('hex');

  for (const kind of kinds) {
    test(`are attached, grown, rekeyed, detached and attached again (${textOf(kind)})`, async () => {
      const disk = await blank(kind, key);
      const keys: DiskKeys = new Map([[disk.id, key]]);
      const volume: AttachedVolume = { disk, target: 'vdc' };
      for (let time = 0; time < 2; time++) await host.agent.attachVolume(server, volume, keys);
      await arrives(disk);
      assert.equal(await bytesOf(disk), SIZE);
      await write(disk, 0, marker);
      await write(disk, SIZE - 512, 'END');

      const larger = { ...disk, sizeBytes: LARGER };
      for (let time = 0; time < 2; time++) await host.agent.growDisk(larger, SIZE, keys, id);
      assert.equal(await bytesOf(disk), LARGER);
      await write(disk, LARGER - 512, 'LAST');
      await host.agent.growDisk(larger, SIZE, keys, id);
      const to = Secret.generate();
      if (kind.encryption) await host.agent.rekeyDisk(larger, { from: key, to }, newId());
      assert.equal(await read(disk, 0, marker.length), marker);
      assert.equal(await holds(fileOf(disk), marker), kind.encryption === null);

      const grown = { ...volume, disk: larger };
      for (let time = 0; time < 2; time++) await host.agent.detachVolume(id, grown);
      assert.equal(await deviceOf(disk), '');
      const newKeys: DiskKeys = new Map([[disk.id, to]]);
      if (kind.encryption) {
        await assert.rejects(host.agent.attachVolume(server, grown, keys), code('disk-wrong-key'));
        assert.equal(await deviceOf(disk), '');
      }
      await host.agent.attachVolume(server, { ...grown, readonly: true }, newKeys);
      await arrives(disk);
      assert.equal(await bytesOf(disk), LARGER);
      assert.equal(await read(disk, 0, marker.length), marker);
      assert.equal(await read(disk, SIZE - 512, 3), 'END');
      assert.equal(await read(disk, LARGER - 512, 4), 'LAST');
      await write(disk, 0, 'OTHER');
      assert.equal(await read(disk, 0, marker.length), marker, 'a read-only volume was written');
      await host.agent.detachVolume(id, grown);
      assert.deepEqual((await host.agent.inventory()).unlockedDisks, []);
      assert.deepEqual((await host.agent.inventory()).libvirtSecrets, []);
      await host.agent.destroyDisk(larger);
    });
  }

  const all = kinds.flatMap((from, index) =>
    [from, kinds[(index + 1) % kinds.length] as Kind].map((to) => ({ from, to })),
  );
  const ways = process.env.NIGHTLATCH_TEST_DEPTH === 'all' ? all : all.filter((_, index) => index === 0 || index === 7);
  for (const { from: kind, to: other } of ways) {
    test(`are mirrored onto others while it writes (${textOf(kind)}, to ${textOf(other)})`, async () => {
      const toKey = Secret.generate();
      const from = await blank(kind, key);
      const to: DiskSpec = { ...from, ...other, id: newId<DiskId>(), generation: 1 };
      const mirror: MirroredDisk = { from, to };
      const keys: DiskKeys = new Map([[from.id, key]]);
      const toKeys: DiskKeys = new Map([[to.id, toKey]]);
      const volume: AttachedVolume = { disk: from, target: 'vdc' };
      await assert.rejects(host.agent.mirrorDisk(id, mirror, toKeys, 0), code('hypervisor-failed'));
      await host.agent.attachVolume(server, volume, keys);
      await arrives(from);
      const writer = new GuestWriter(guest, from.ownerId);
      await writer.start();
      assert.deepEqual(await host.agent.mirrorState(id, mirror), { kind: 'none', fullAt: null });

      // Slowly, and then not at all.
      for (let time = 0; time < 2; time++) await host.agent.mirrorDisk(id, mirror, toKeys, MIB);
      const slow = await host.agent.mirrorState(id, mirror);
      assert.ok(slow.kind === 'mirrored' && !slow.isReady && slow.copiedBytes < slow.totalBytes);
      await assert.rejects(host.agent.switchToMirror(id, mirror), code('hypervisor-failed'));
      await host.agent.unpauseServer(id);
      for (let time = 0; time < 2; time++) await host.agent.endMirror(id, mirror);
      assert.deepEqual(await host.agent.mirrorState(id, mirror), { kind: 'none', fullAt: null });

      await host.agent.mirrorDisk(id, mirror, toKeys, MIB);
      await host.agent.lockStrays();
      await host.agent.setMirrorSpeed(id, mirror, 0);
      await waitUntil('the mirror is ready', async () => {
        const state = await host.agent.mirrorState(id, mirror);
        return state.kind === 'mirrored' && state.isReady;
      });
      const before = await writer.count();
      for (let time = 0; time < 2; time++) await host.agent.switchToMirror(id, mirror);
      assert.deepEqual(await host.agent.mirrorState(id, mirror), { kind: 'switched' });
      await assert.rejects(host.agent.endMirror(id, mirror), code('hypervisor-failed'));
      await host.agent.mirrorDisk(id, mirror, toKeys, 0);
      assert.deepEqual((await host.agent.inventory()).servers, [{ id, state: 'paused' }]);
      await host.agent.unpauseServer(id);
      await waitUntil('the guest goes on', async () => (await writer.count()) > before + 10);
      await host.agent.destroyDisk(from);
      await writer.stop();
      assert.equal(await bytesOf(to), SIZE);

      const larger = { ...to, sizeBytes: LARGER };
      await host.agent.growDisk(larger, SIZE, toKeys, id);
      assert.equal(await bytesOf(larger), LARGER);
      await host.agent.detachVolume(id, { disk: larger, target: 'vdc' });
      assert.equal((await plaintext(larger, toKey)).length, LARGER);
      if (other.encryption) await assert.rejects(plaintext(larger, key), /Invalid password/);
      assert.deepEqual((await host.agent.inventory()).unlockedDisks, []);
      assert.deepEqual((await host.agent.inventory()).libvirtSecrets, []);
      await host.agent.destroyDisk(larger);
    });
  }

  test('are copied while it goes on, and are there again after it was stopped', async () => {
    const volumes = await Promise.all(
      kinds.map(async (kind, index) => ({ disk: await blank(kind, key), target: `vd${'cdef'[index]}` })),
    );
    const keys = new Map(volumes.map(({ disk }) => [disk.id, key]));
    const whole = { ...server, volumes };
    for (const volume of volumes) await host.agent.attachVolume(server, volume, keys);
    for (const { disk } of volumes) {
      await arrives(disk);
      await write(disk, 0, marker);
      const snapshotKey = Secret.generate();
      const snapshot: DiskSpec = { ...disk, id: newId<DiskId>(), ownerId: newId<VolumeId>() };
      await host.agent.copyRunningDisk(whole, disk, snapshot, new Map([[snapshot.id, snapshotKey]]));
      const copied = await plaintext(snapshot, snapshotKey);
      assert.equal(copied.length, SIZE);
      assert.equal(copied.toString('latin1', 0, marker.length), marker);
      await host.agent.destroyDisk(snapshot);
    }
    guest[Symbol.dispose]();
    await host.agent.stopServer(id, [...disks, ...volumes.map(({ disk }) => disk)], 0);
    await host.agent.startServer(whole, keys);
    guest = await GuestShell.open(host.agent, id, 2);
    for (const { disk } of volumes) {
      assert.equal(await bytesOf(disk), SIZE);
      assert.equal(await read(disk, 0, marker.length), marker);
      await host.agent.lockStrays();
      await write(disk, 512, marker);
      assert.equal(await read(disk, 512, marker.length), marker, 'lockStrays took a volume from its guest');
    }
    for (const volume of volumes) await host.agent.detachVolume(id, volume);
    for (const { disk } of volumes) assert.equal(await deviceOf(disk), '');
    await host.agent.stopServer(id, disks, 0);
    await assert.rejects(
      host.agent.attachVolume(server, volumes[0] as AttachedVolume, keys),
      /does not run/,
      'a guest that does not run was given a volume',
    );
    for (const volume of volumes) await host.agent.detachVolume(id, volume);
    for (const { disk } of volumes) await host.agent.destroyDisk(disk);
  });

  test('of a server that starts from one, before its own disks', async () => {
    const boot = someVolume(kinds[0], MIB);
    const swap = { ...own('root', MIB), role: 'swap' } as const;
    const bootKeys: DiskKeys = new Map([[boot.id, key]]);
    const imageId = newId<ImageId>();
    const open = async () => Readable.from([bootSector()], { objectMode: false });
    await host.agent.cacheImage(imageId, { format: 'raw', isEncrypted: false, open });
    await host.agent.createDisk(boot, { kind: 'image', imageId }, bootKeys);
    await host.agent.createDisk(swap, { kind: 'swap' }, new Map());
    const target = { disk: boot, target: 'vda' };
    const other: ServerSpec = {
      ...server,
      id: newId<ServerId>(),
      name: 'instance-00000002',
      disks: [swap],
      targets: ['vdb'],
      volumes: [target],
    };
    await host.agent.startServer(other, bootKeys);
    const deadline = Date.now() + 20_000;
    while (!(await host.agent.consoleLog(other.id, 100)).includes('READY')) assert.ok(Date.now() < deadline, 'no boot');

    const kept = await blank(kinds[0], key);
    const volume = { disk: kept, target: 'vdc' };
    await host.agent.attachVolume(other, volume, new Map([[kept.id, key]]));
    // A guest of 512 bytes lets go of nothing.
    await assert.rejects(host.agent.detachVolume(other.id, volume), code('volume-not-released'));
    await assert.rejects(plaintext(kept, key), /lock/, 'QEMU does not have it any more');
    // A guest is found by its volumes too, also when libvirt does not answer.
    const backendDirectories = [`${directory}/volumes/slow`];
    const places = { disksDirectory: '/nowhere', backendDirectories, volumeGroups: [], pools: [] };
    assert.deepEqual(
      (await findGuestProcesses(places)).map(({ serverId }) => serverId),
      [other.id],
    );
    await host.agent.lockDown();
    assert.deepEqual((await host.agent.inventory()).servers, []);
    await host.agent.liftLockDown();
    await host.agent.stopServer(other.id, [boot, swap, kept], 0);
    for (const disk of [boot, swap, kept]) await host.agent.destroyDisk(disk);
  });
});
