import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import type { JsonObject } from '#cli/cloud/client.ts';
import { GuestConsole } from '#cli/cloud/guest-console.ts';
import type { StorageFormat } from '#core/disk.ts';
import { MIB } from '#core/sizes.ts';
import { expectBooted } from '#test/support/boot-guest.ts';
import { type DiskFacts, ServerLab } from '#test/support/server-lab.ts';
import { wayOf } from '#test/support/server-way.ts';
import { formatUnderTest, imagesTypeUnderTest } from '#test/support/service.ts';
import { findStrays } from '#test/support/strays.ts';
import { waitUntil } from '#test/support/wait.ts';

/*
 * Servers are given other flavors and other images. The guest is the boot sector: it boots from the disk that replaced
 * its first one only when that holds what the first one held, under a key that opens it.
 */

const isWhole = process.env.NIGHTLATCH_TEST_DEPTH === 'all';
const ENCRYPTED = { 'hw:ephemeral_encryption': 'true', 'hw:ephemeral_encryption_format': formatUnderTest };
const onVolumes = imagesTypeUnderTest === 'lvm';
/** In files, or what `NIGHTLATCH_TEST_IMAGES_TYPE` names. */
const storages: readonly StorageFormat[] = onVolumes ? ['lvm'] : isWhole ? ['raw', 'qcow2'] : ['raw'];
const GIB = 1024 * MIB;
/** Of the whole depth only: what it shows is shown by others too, in part. */
const whole = isWhole ? test : () => {};

for (const imagesType of storages) {
  describe(`servers with encrypted disks (${imagesType})`, { timeout: onVolumes ? 7_200_000 : 600_000 }, () => {
    let lab: ServerLab;
    let small: string;
    let large: string;
    let image: string;
    before(async () => {
      lab = await ServerLab.open({ imagesType, shutdownTimeout: 5 });
      small = await lab.addFlavor(ENCRYPTED, { disk: 0, ephemeral: 0, swap: 8 });
      large = await lab.addFlavor(ENCRYPTED, { ram: 96, disk: 1, ephemeral: 1, swap: 16 });
      image = await lab.addBootImage();
    });
    after(() => lab[Symbol.asyncDispose]());

    const act = async (id: string, action: JsonObject, status: string): Promise<JsonObject> => {
      await lab.cloud.act(id, action);
      return await lab.cloud.waitForStatus(id, status);
    };
    const expectNoStrays = async () => assert.deepEqual(await findStrays(lab.service), []);
    const sizes = (disks: readonly DiskFacts[]) => disks.map(({ role, sizeBytes }) => [role, sizeBytes]);
    const standing = async (id: string, wanted: DiskFacts['standing']) =>
      (await lab.disksOf(id)).filter((disk) => disk.standing === wanted);
    const secretsOf = (disks: readonly DiskFacts[]) => disks.map(({ secretId }) => secretId);
    const storedSecrets = async () => (await lab.db.selectFrom('secrets').select('id').execute()).map(({ id }) => id);

    test('resize copies the disks under new keys; revert gives the old ones back, confirm destroys them', async () => {
      const id = await lab.create(small, image, { name: 'grows' });
      await expectBooted(lab.cloud, id);
      const old = await lab.disksOf(id);
      const way = await wayOf(lab.cloud, 'grows', 'VERIFY_RESIZE', () =>
        lab.cloud.act(id, { resize: { flavorRef: large } }),
      );
      assert.deepEqual([way[0], way.at(-1)], ['ACTIVE', 'VERIFY_RESIZE']);
      assert.ok(way.includes('RESIZE resize_migrating'), way.join(', '));
      await expectBooted(lab.cloud, id);
      await expectNoStrays();
      const resized = await lab.cloud.server(id);
      assert.deepEqual([resized.flavor.ram, resized.flavor.disk, resized['OS-EXT-STS:power_state']], [96, 1, 1]);
      const grown = await standing(id, 'live');
      const config = ['config-drive', 4 * MIB] as const;
      assert.deepEqual(sizes(grown), [['root', GIB], ['ephemeral', GIB], ['swap', 16 * MIB], config]);
      assert.deepEqual(
        await standing(id, 'kept'),
        old.slice(0, 2).map((disk) => ({ ...disk, standing: 'kept' })),
      );
      assert.equal(new Set(secretsOf(await lab.disksOf(id))).size, 6);

      assert.equal((await act(id, { revertResize: null }, 'ACTIVE')).flavor.ram, 64);
      assert.deepEqual(await lab.disksOf(id), old);
      assert.deepEqual((await storedSecrets()).sort(), secretsOf(old).sort());
      await expectBooted(lab.cloud, id);
      await expectNoStrays();

      await act(id, { resize: { flavorRef: large } }, 'VERIFY_RESIZE');
      await act(id, { confirmResize: null }, 'ACTIVE');
      const confirmed = await lab.disksOf(id);
      assert.deepEqual(sizes(confirmed), sizes(grown));
      assert.deepEqual((await storedSecrets()).sort(), secretsOf(confirmed).sort());
      await expectBooted(lab.cloud, id);
      await expectNoStrays();
      await lab.delete(id);
    });

    whole('a server that was off stays off, and boots from the copy later', async () => {
      const id = await lab.create(small, image);
      await act(id, { 'os-stop': null }, 'SHUTOFF');
      const resized = await act(id, { resize: { flavorRef: large } }, 'VERIFY_RESIZE');
      assert.equal(resized['OS-EXT-STS:power_state'], 4);
      await expectNoStrays();
      await act(id, { confirmResize: null }, 'SHUTOFF');
      await act(id, { 'os-start': null }, 'ACTIVE');
      await expectBooted(lab.cloud, id);
      await lab.delete(id);
      await expectNoStrays();
    });

    whole('nothing is copied when no disk changes; a server is deleted while its resize waits', async () => {
      const id = await lab.create(small, image);
      const more = await lab.addFlavor(ENCRYPTED, { ram: 96, disk: 0, ephemeral: 0, swap: 8 });
      const before = await lab.disksOf(id);
      await act(id, { resize: { flavorRef: more } }, 'VERIFY_RESIZE');
      assert.deepEqual(await lab.disksOf(id), before);
      await act(id, { revertResize: null }, 'ACTIVE');
      assert.deepEqual(await lab.disksOf(id), before);
      await act(id, { resize: { flavorRef: large } }, 'VERIFY_RESIZE');
      await lab.delete(id);
      await expectNoStrays();
      assert.deepEqual(await storedSecrets(), []);
    });

    whole('a guest that powers itself off while its resize waits is locked; confirmed, it is off', async () => {
      const id = await lab.create(small, image);
      await act(id, { resize: { flavorRef: large } }, 'VERIFY_RESIZE');
      await expectBooted(lab.cloud, id);
      using guest = await GuestConsole.open(await lab.cloud.serialConsoleUrl(id));
      await guest.exchange('p', /^/);
      const isOff = async () => (await lab.cloud.server(id))['OS-EXT-STS:power_state'] === 4;
      await waitUntil('its end is seen', isOff, 10_000 * lab.cloud.patience);
      await lab.cloud.waitForStatus(id, 'VERIFY_RESIZE');
      await expectNoStrays();
      await act(id, { confirmResize: null }, 'SHUTOFF');
      await lab.delete(id);
      await expectNoStrays();
    });

    test('a resize for which the host has no room leaves the server as it was, with a fault', async () => {
      const id = await lab.create(small, image);
      const next = await expectBooted(lab.cloud, id);
      const before = await lab.disksOf(id);
      const huge = await lab.addFlavor(ENCRYPTED, { ram: 64 * 1024 * 1024, disk: 1 });
      await lab.cloud.act(id, { resize: { flavorRef: huge } });
      const server = await lab.cloud.waitForStatus(id, 'ACTIVE');
      assert.match(server.fault.message, /^No valid host was found\. .* MiB of memory free/);
      assert.deepEqual([server.flavor.ram, await lab.disksOf(id)], [64, before]);
      await expectNoStrays();
      assert.equal(await lab.answer(id), next, 'the guest was touched');
      await lab.delete(id);
    });

    test('rebuild gives fresh disks from another image under new keys, and a new name', async () => {
      const id = await lab.create(large, image, { metadata: { old: 'yes' } });
      const before = await lab.disksOf(id);
      const other = await lab.addBootImage();
      const changes = { name: 'new', metadata: { new: 'yes' }, user_data: 'IyEvYmluL3NoCg==', adminPass: 'x' };
      await act(id, { rebuild: { imageRef: other, ...changes } }, 'ACTIVE');
      const server = await lab.cloud.server(id);
      assert.deepEqual([server.image.id, server.name, server.metadata], [other, 'new', { new: 'yes' }]);
      await expectBooted(lab.cloud, id);
      const after = await lab.disksOf(id);
      assert.deepEqual(sizes(after), sizes(before));
      assert.equal(new Set([...secretsOf(before), ...secretsOf(after)]).size, 8);
      assert.deepEqual((await storedSecrets()).sort(), secretsOf(after).sort());
      await expectNoStrays();
      await lab.delete(id);
    });

    whole('a server that was off is rebuilt, stays off, and boots later', async () => {
      const id = await lab.create(large, image);
      await act(id, { 'os-stop': null }, 'SHUTOFF');
      await act(id, { rebuild: { imageRef: image } }, 'SHUTOFF');
      await expectNoStrays();
      await act(id, { 'os-start': null }, 'ACTIVE');
      await expectBooted(lab.cloud, id);
      await lab.delete(id);
      await expectNoStrays();
    });
  });
}
