import assert from 'node:assert/strict';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import type { JsonObject } from '#cli/cloud/client.ts';
import { GuestConsole } from '#cli/cloud/guest-console.ts';
import type { StorageFormat } from '#core/disk.ts';
import type { ServerId } from '#core/ids.ts';
import { disksOf } from '#db/disks.ts';
import { CLOUD_NAME } from '#main/clouds-yaml.ts';
import { bootSector } from '#test/support/boot-sector.ts';
import { openStackClient } from '#test/support/openstack-client.ts';
import { ServerLab } from '#test/support/server-lab.ts';
import { formatUnderTest, imagesTypeUnderTest } from '#test/support/service.ts';
import { findStrays } from '#test/support/strays.ts';

/*
 * Images of servers: what the guest wrote is in them, in cipher and under a key of their own when its disk was encrypted,
 * and a server made from one finds it again.
 */

/** Lies in the image that servers boot from, so also on their root disks. */
const MARKER = 'a line that only its owner may read';

const SIZE = 1024 * 1024;

const stops = [
  ['SHUTOFF', { 'os-stop': null }],
  ['PAUSED', { pause: null }],
  ['SUSPENDED', { suspend: null }],
] as const;
const isVolumeTest = imagesTypeUnderTest === 'lvm';
const isWhole = process.env.NIGHTLATCH_TEST_DEPTH === 'all';

/** In files, or what `NIGHTLATCH_TEST_IMAGES_TYPE` names. */
const storages: readonly StorageFormat[] = isVolumeTest ? [imagesTypeUnderTest] : ['raw', 'qcow2'];

for (const imagesType of storages) {
  describe(`images of servers on ${imagesType}`, { timeout: isVolumeTest ? 7_200_000 : 600_000 }, () => {
    let lab: ServerLab;
    let clear: string;
    let secret: string;
    let base: string;

    before(async () => {
      lab = await ServerLab.open({ imagesType, shutdownTimeout: 2 });
      // Root disks of the image's size: copies of them take no time.
      clear = await lab.addFlavor({}, { disk: 0, ephemeral: 0, swap: 0 });
      const encrypted = { 'hw:ephemeral_encryption': 'true', 'hw:ephemeral_encryption_format': formatUnderTest };
      secret = await lab.addFlavor(encrypted, { disk: 0, ephemeral: 0, swap: 8 });
      const file = join(lab.service.directory, 'marked.raw');
      const lines = Buffer.alloc(SIZE - 1024, `${MARKER}\n`);
      await writeFile(file, Buffer.concat([bootSector(), Buffer.alloc(512), lines]));
      base = await lab.cloud.uploadImage('marked', file, 'raw', { hw_rng_model: 'virtio' });
    });
    after(() => lab[Symbol.asyncDispose]());

    const ask = async (id: string, letters: string): Promise<string> => {
      using guest = await GuestConsole.open(await lab.cloud.serialConsoleUrl(id));
      let said = '';
      for (const letter of letters) {
        for (let attempt = 1; ; attempt++) {
          try {
            said += (await guest.exchange(letter, /[a-z!]/, 3000))[0];
            break;
          } catch (error) {
            // What is sent while the firmware still has the serial port is lost.
            if (attempt >= 10 * lab.cloud.patience) throw error;
          }
        }
      }
      return said;
    };
    const snapshot = async (id: string, body: JsonObject = {}): Promise<JsonObject> => {
      const { image_id } = await lab.cloud.act(id, { createImage: { name: 'copy', ...body } });
      for (;;) {
        const server = await lab.cloud.server(id);
        if (server['OS-EXT-STS:task_state'] === null) {
          assert.equal(server.fault, undefined);
          const image = await lab.cloud.expect('image', 'GET', `/v2/images/${image_id}`);
          assert.equal(image.status, 'active');
          return image;
        }
      }
    };
    const bytesOf = (image: JsonObject) => readFile(join(lab.service.stateDirectory, 'images', image.id));
    const removeImage = (image: JsonObject) => lab.cloud.expect('image', 'DELETE', `/v2/images/${image.id}`);

    const atAllOr = (type: StorageFormat) => isWhole || imagesType === type || imagesType === 'lvm';
    const running = 'of a running encrypted server is encrypted, and a server made from it has what the guest wrote';
    if (atAllOr('raw'))
      it(running, async () => {
        const id = await lab.create(secret, base);
        assert.equal(await ask(id, 'nnw'), 'abk');
        const image = await snapshot(id, { metadata: { purpose: 'test' } });
        assert.equal(await ask(id, 'n'), 'c', 'the guest was disturbed');
        assert.equal(image.disk_format, 'qcow2');
        const expected = {
          ...{ os_encrypt_format: 'LUKSv1', os_encrypt_cipher: 'aes-xts-plain64' },
          ...{ os_encrypt_key_deletion_policy: 'on_image_deletion', os_decrypt_container_format: 'bare' },
          ...{ os_decrypt_size: String(SIZE), virtual_size: SIZE, min_disk: 1, visibility: 'private' },
          ...{
            image_type: 'snapshot',
            base_image_ref: base,
            instance_uuid: id,
            purpose: 'test',
            hw_rng_model: 'virtio',
          },
        };
        for (const [name, value] of Object.entries(expected)) assert.equal(image[name], value, name);
        assert.match(image.os_encrypt_key_id, /^[0-9a-f-]{36}$/);
        assert.equal((await bytesOf(image)).includes(MARKER), false, 'the image shows what the disk holds');
        assert.deepEqual(await findStrays(lab.service), []);
        await lab.delete(id);

        const copy = await lab.create(clear, image.id);
        assert.equal(await ask(copy, 'ln'), 'kc');
        for (const disk of await disksOf(lab.db, copy as ServerId)) {
          assert.notEqual(disk.secret_id, null, `${disk.role} is not encrypted`);
          assert.notEqual(disk.secret_id, image.os_encrypt_key_id, `${disk.role} has the key of the image`);
        }
        await removeImage(image);
        assert.deepEqual(await findStrays(lab.service), []);
        await lab.cloud.act(copy, { reboot: { type: 'HARD' } });
        await lab.cloud.waitForStatus(copy, 'ACTIVE');
        assert.equal(await ask(copy, 'ln'), 'kc', 'the server needs the image after it was made');
        await lab.delete(copy);
        assert.deepEqual(await findStrays(lab.service), []);
      });

    for (const [status, action] of stops.filter(
      ([status]) => isWhole || (imagesType !== 'raw' && status === 'SUSPENDED'),
    )) {
      it(`of a server that is ${status}`, async () => {
        const id = await lab.create(secret, base);
        assert.equal(await ask(id, 'nnw'), 'abk');
        await lab.cloud.act(id, action);
        await lab.cloud.waitForStatus(id, status);
        const image = await snapshot(id);
        assert.equal((await bytesOf(image)).includes(MARKER), false);
        assert.deepEqual(await findStrays(lab.service), []);
        assert.equal((await lab.cloud.server(id)).status, status);
        const copy = await lab.create(secret, image.id);
        assert.equal(await ask(copy, 'ln'), 'kc');
        for (const server of [copy, id]) await lab.delete(server);
        await removeImage(image);
        assert.deepEqual(await findStrays(lab.service), []);
      });
    }

    if (isWhole) {
      it('of an encrypted server is in clear when its owner says so', async () => {
        const id = await lab.create(secret, base);
        const image = await snapshot(id, { encryption: { key: 'none' } });
        assert.equal(image.os_encrypt_format, undefined);
        assert.equal((await bytesOf(image)).includes(MARKER), true);
        await lab.delete(id);
        await removeImage(image);
      });
    }

    if (isWhole) {
      it('of a server in clear is in clear', async () => {
        const id = await lab.create(clear, base);
        assert.equal(await ask(id, 'nw'), 'ak');
        const image = await snapshot(id);
        assert.equal(image.os_encrypt_format, undefined);
        const copy = await lab.create(clear, image.id);
        assert.equal(await ask(copy, 'ln'), 'kb');
        for (const server of [copy, id]) await lab.delete(server);
        await removeImage(image);
        assert.deepEqual(await findStrays(lab.service), []);
      });
    }

    if (imagesType === 'qcow2') {
      it('openstack server image create, shelve, unshelve, each with --wait', async () => {
        const openstack = openStackClient(lab.service.stateDirectory, CLOUD_NAME);
        const id = await lab.create(secret, base, { name: 'desk' });
        assert.equal(await ask(id, 'nnw'), 'abk');
        await openstack.does('server', 'image', 'create', '--name', 'desk-copy', '--wait', 'desk');
        const image = (await openstack.json('image', 'show', 'desk-copy')) as JsonObject;
        assert.deepEqual([image.status, image.properties.os_encrypt_format], ['active', 'LUKSv1']);
        await openstack.does('server', 'shelve', '--wait', 'desk');
        await lab.cloud.waitForStatus(id, 'SHELVED_OFFLOADED');
        await openstack.does('server', 'unshelve', '--wait', 'desk');
        await lab.cloud.waitForStatus(id, 'ACTIVE');
        assert.equal(await ask(id, 'ln'), 'kc');
        await lab.delete(id);
        await openstack.does('image', 'delete', 'desk-copy');
        assert.deepEqual(await findStrays(lab.service), []);
      });
    }

    const shelved =
      'hold a server that is shelved: it leaves its host with all its keys, and comes back with what it wrote';
    if (atAllOr('raw'))
      it(shelved, async () => {
        const id = await lab.create(secret, base);
        assert.equal(await ask(id, 'nnw'), 'abk');
        await lab.cloud.act(id, { shelve: null });
        await lab.cloud.waitForStatus(id, 'SHELVED_OFFLOADED');
        const [image] = (await lab.cloud.expect('image', 'GET', '/v2/images?name=web-shelved')).images;
        assert.equal((await bytesOf(image)).includes(MARKER), false);
        const secrets = await lab.db.selectFrom('secrets').select('id').execute();
        assert.deepEqual(secrets, [{ id: image.os_encrypt_key_id }], 'keys of disks that are gone were kept');
        assert.equal((await lab.cloud.server(id))['OS-EXT-SRV-ATTR:host'], null);
        assert.deepEqual(await findStrays(lab.service), []);

        await lab.cloud.act(id, { unshelve: null });
        await lab.cloud.waitForStatus(id, 'ACTIVE');
        assert.equal(await ask(id, 'ln'), 'kc');
        assert.deepEqual((await lab.cloud.expect('image', 'GET', '/v2/images?name=web-shelved')).images, []);
        const disks = await disksOf(lab.db, id as ServerId);
        assert.deepEqual(
          disks.map((disk) => disk.secret_id !== null),
          disks.map(() => true),
        );
        assert.deepEqual(await findStrays(lab.service), []);
        await lab.delete(id);
        assert.deepEqual(await findStrays(lab.service), []);
      });

    if (isWhole) {
      it('of a shelved server go when it is deleted', async () => {
        const id = await lab.create(secret, base);
        await lab.cloud.act(id, { shelve: null });
        await lab.cloud.waitForStatus(id, 'SHELVED_OFFLOADED');
        await lab.delete(id);
        assert.deepEqual((await lab.cloud.expect('image', 'GET', '/v2/images?name=web-shelved')).images, []);
        assert.deepEqual(await findStrays(lab.service), []);
      });
    }
  });
}

if (isWhole) {
  describe('a shelved server', { timeout: isVolumeTest ? 1_800_000 : 600_000 }, () => {
    it('leaves its host by itself after shelved_offload_time', async () => {
      await using lab = await ServerLab.open({ shutdownTimeout: 1, defaults: 'shelved_offload_time = 1' });
      const flavor = await lab.addFlavor({ 'hw:ephemeral_encryption': 'true' }, { disk: 0, ephemeral: 0, swap: 0 });
      const id = await lab.create(flavor, await lab.addBootImage());
      await lab.cloud.act(id, { shelve: null });
      await lab.cloud.waitForStatus(id, 'SHELVED');
      await lab.cloud.waitForStatus(id, 'SHELVED_OFFLOADED');
      assert.deepEqual(await findStrays(lab.service), []);
    });
  });
}
