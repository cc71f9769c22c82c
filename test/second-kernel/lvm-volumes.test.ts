import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import type { DiskSpec } from '#core/disk.ts';
import { NightlatchError } from '#core/errors.ts';
import { type DiskId, newId, type ServerId } from '#core/ids.ts';
import { Secret } from '#core/secret.ts';
import { GIB, MIB } from '#core/sizes.ts';
import { type Clearing, defaultClearing } from '#host/storage/lvm/clear.ts';
import { lvmStorage } from '#host/storage/lvm/driver.ts';
import { type DiskLab, diskLab, makeDisk, mediumOf, someDisk, tell } from '#test/support/disk-lab.ts';

const GROUP = process.env.NIGHTLATCH_TEST_VOLUME_GROUP ?? '';
const code = (expected: string) => (error: unknown) => error instanceof NightlatchError && error.code === expected;
let lab: DiskLab;
before(async () => {
  lab = await diskLab();
});
after(async () => lab[Symbol.asyncDispose]());

test('a volume that Nightlatch did not make is never written, grown or removed', async () => {
  const driver = lab.driver('lvm');
  const disk = someDisk({ storage: 'lvm', encryption: 'luksv2' });
  const { path } = driver.attachment(disk);
  const name = path.slice(path.lastIndexOf('/') + 1);
  assert.equal(tell('lvcreate', '-y', '-L', '20M', '-n', name, GROUP).status, 0);
  assert.equal(tell('sh', '-c', `printf PRECIOUS > ${path}`).status, 0);
  await assert.rejects(driver.create(disk, null), code('disk-not-ours'));
  await assert.rejects(driver.headerRegion(disk), code('disk-header-missing'));
  await assert.rejects(driver.grow({ ...disk, sizeBytes: 64 * MIB }, disk.sizeBytes), code('disk-header-missing'));
  await driver.delete(disk);
  assert.equal(tell('head', '-c', '8', path).text, 'PRECIOUS');
  assert.equal(tell('lvremove', '-f', `${GROUP}/${name}`).status, 0);
});

test('a volume of another disk of the same server and name is not taken for one’s own', async () => {
  const driver = lab.driver('lvm');
  const disk = someDisk({ storage: 'lvm', role: 'memory', encryption: 'plain' });
  await driver.create(disk, null);
  const next = { ...disk, id: newId<DiskId>() };
  await assert.rejects(driver.create(next, null), code('disk-not-ours'));
  await assert.rejects(mediumOf(driver, next), code('disk-missing'));
  await driver.delete(next);
  await mediumOf(driver, disk);
  await driver.delete(disk);
});

test('an unencrypted disk shows nothing of what lay there before', async () => {
  const driver = lab.driver('lvm');
  const first = someDisk({ storage: 'lvm', encryption: null, sizeBytes: 8 * MIB });
  await driver.create(first, null);
  const { path } = driver.attachment(first);
  assert.equal(tell('sh', '-c', `yes MARKER | head -c ${8 * MIB} > ${path}; sync`).status, 0);
  await driver.delete(first);
  const second = someDisk({ storage: 'lvm', encryption: null, sizeBytes: 8 * MIB });
  await driver.create(second, null);
  assert.equal(tell('grep', '-c', 'MARKER', driver.attachment(second).path).text.trim(), '0');
  await driver.delete(second);
});

test('a guest that calls a volume group of its own like the host’s changes nothing for the host', async () => {
  const driver = lab.driver('lvm');
  const disk = someDisk({ storage: 'lvm', encryption: 'plain', sizeBytes: 16 * MIB });
  using key = Secret.generate();
  await makeDisk(lab, disk, key);
  const encryptor = lab.encryptorOf('plain');
  const path = await encryptor.unlock(disk, await mediumOf(driver, disk), key);
  // As from inside the guest, where nobody else is.
  const inside = `devices { dir="${lab.runDirectory}" scan=["/dev"] filter=["a|^/dev/mapper/nl-|","r|.*|"] }`;
  const made = tell('vgcreate', '-y', '--config', inside, GROUP, path);
  assert.equal(made.status, 0, made.text);
  assert.match(tell('vgs', GROUP).text, /Multiple VGs found with the same name/, 'LVM itself is not confused');
  const other = someDisk({ storage: 'lvm', encryption: 'plain', sizeBytes: 16 * MIB });
  await makeDisk(lab, other, key);
  await driver.delete(other);
  await encryptor.lock(disk);
  await driver.delete(disk);
});

test('the group tells how large it is and whose disks it has', async () => {
  const driver = lvmStorage({ volumeGroup: GROUP, thinPool: null, noteOf: () => null, clearing: defaultClearing });
  const disk = someDisk({ storage: 'lvm', encryption: null });
  using key = Secret.generate();
  await makeDisk(lab, disk, key);
  const capacity = (await driver.capacityBytes?.()) ?? 0;
  assert.ok(capacity > 190 * GIB && capacity < 201 * GIB, `${capacity}`);
  assert.ok((await driver.servers?.())?.includes(disk.ownerId as ServerId));
  await driver.delete(disk);
  assert.equal((await driver.servers?.())?.includes(disk.ownerId as ServerId), false);
  const absent = lvmStorage({
    volumeGroup: 'no-such-group',
    thinPool: null,
    noteOf: () => null,
    clearing: defaultClearing,
  });
  await assert.rejects(async () => absent.capacityBytes?.(), /no-such-group/);
});

test('a clear volume is cleared before it is removed, as far as asked; an encrypted one only when that is asked', async () => {
  const lvm = (clearing: Partial<Clearing>) =>
    lvmStorage({
      volumeGroup: GROUP,
      thinPool: null,
      noteOf: () => null,
      clearing: { ...defaultClearing, ...clearing },
    });
  const left = async (encryption: DiskSpec['encryption'], clearing: Partial<Clearing>) => {
    const disk = someDisk({ storage: 'lvm', encryption, sizeBytes: 8 * MIB });
    const driver = lvm(clearing);
    await driver.create(disk, null);
    const { path } = driver.attachment(disk);
    // The same place of the same physical volume, looked at where it lies: what a thief of the medium finds.
    const [device = '', start = ''] = tell('sh', '-c', `dmsetup table ${path} | cut -d' ' -f4,5`)
      .text.trim()
      .split(' ');
    assert.equal(tell('sh', '-c', `yes MARKER | head -c ${8 * MIB} > ${path}; sync`).status, 0);
    await driver.delete(disk);
    const medium = `/dev/$(. /sys/dev/block/${device}/uevent; echo $DEVNAME)`;
    const read = `dd if=${medium} bs=1M iflag=skip_bytes,direct skip=$((${start} * 512)) count=8 status=none`;
    const count = (what: string) => {
      const { text } = tell('sh', '-c', `${read} | ${what}`);
      assert.match(text, /^\d+\n$/);
      return Number(text);
    };
    const [marks, zeros] = [count('grep -c MARKER'), count(`tr -d '\\0' | wc -c`)];
    return { marks: marks > 0, zeros: zeros === 0 };
  };
  assert.deepEqual(await left(null, {}), { marks: false, zeros: true });
  assert.deepEqual(await left(null, { way: 'shred' }), { marks: false, zeros: false });
  assert.deepEqual(await left(null, { limitBytes: MIB }), { marks: true, zeros: false });
  assert.deepEqual(await left(null, { way: 'none' }), { marks: true, zeros: false });
  assert.deepEqual(await left('plain', {}), { marks: true, zeros: false });
  assert.deepEqual(await left('plain', { encryptedToo: true }), { marks: false, zeros: true });
});

test('deleting an encrypted disk takes no longer the larger it is', async () => {
  const driver = lab.driver('lvm');
  using key = Secret.generate();
  const timeOf = async (sizeBytes: number) => {
    const times = [];
    for (let i = 0; i < 3; i++) {
      const disk = someDisk({ storage: 'lvm', encryption: 'luksv2', sizeBytes });
      await makeDisk(lab, disk, key);
      const started = performance.now();
      await lab.encryptorOf('luksv2').destroy(disk, await mediumOf(driver, disk));
      await driver.delete(disk);
      times.push(performance.now() - started);
    }
    return Math.min(...times);
  };
  const [small, large] = [await timeOf(100 * MIB), await timeOf(10 * GIB)];
  assert.ok(large < 3 * small, `${large} ms for 10 GiB, ${small} ms for 100 MiB`);
});
