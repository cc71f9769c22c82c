import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { NightlatchError } from '#core/errors.ts';
import { type DiskId, newId } from '#core/ids.ts';
import { Secret } from '#core/secret.ts';
import { GIB, MIB } from '#core/sizes.ts';
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
  await assert.rejects(async () => driver.grow?.({ ...disk, sizeBytes: 64 * MIB }), code('disk-header-missing'));
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

test('the group tells how large it is and whose disks it has', async () => {
  const driver = lvmStorage({ volumeGroup: GROUP, thinPool: null, noteOf: () => null });
  const disk = someDisk({ storage: 'lvm', encryption: null });
  using key = Secret.generate();
  await makeDisk(lab, disk, key);
  const capacity = (await driver.capacityBytes?.()) ?? 0;
  assert.ok(capacity > 190 * GIB && capacity < 201 * GIB, `${capacity}`);
  assert.ok((await driver.servers?.())?.includes(disk.serverId));
  await driver.delete(disk);
  assert.equal((await driver.servers?.())?.includes(disk.serverId), false);
  const absent = lvmStorage({ volumeGroup: 'no-such-group', thinPool: null, noteOf: () => null });
  await assert.rejects(async () => absent.capacityBytes?.(), /no-such-group/);
});
