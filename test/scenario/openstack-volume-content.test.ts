import assert from 'node:assert/strict';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import type { JsonObject } from '#cli/cloud/client.ts';
import type { SecretId } from '#core/ids.ts';
import { GIB, MIB } from '#core/sizes.ts';
import { CLOUD_NAME } from '#main/clouds-yaml.ts';
import { type OpenStackClient, openStackClient } from '#test/support/openstack-client.ts';
import { findStrays } from '#test/support/strays.ts';
import { PATTERN_BYTES, VolumesAndServers } from '#test/support/volumes-and-servers.ts';

/*
 * What takes all of a volume's content elsewhere or replaces it: upload to an image, revert to a snapshot, reimage. Whatever
 * is made has a key of its own, and holds what it should.
 */

const [FIRST, SECOND, THIRD] = [0x4d, 0x5a, 0x61];

/** Holds what is made here, and not what is too large. */
const IMAGE_SIZE_CAP = 16 * MIB;

describe('the content of a volume', { timeout: 600_000 }, () => {
  let lab: VolumesAndServers;
  let openstack: OpenStackClient;
  let base: string;
  let volume: string;

  before(async () => {
    // Encrypted qcow2 files are as large as what was written to them, so that copies take no time.
    const defaults = `image_size_cap = ${IMAGE_SIZE_CAP}\nenable_force_upload = true`;
    lab = await VolumesAndServers.open({ backends: { files: 'qcow2' }, defaults });
    await lab.addEncryptedType('secret');
    openstack = openStackClient(lab.servers.service.stateDirectory, CLOUD_NAME);
    base = await addImage('base', FIRST, { hw_rng_model: 'virtio' });
    volume = await lab.addVolume({ name: 'data', volume_type: 'secret', imageRef: base });
  });
  after(() => lab[Symbol.asyncDispose]());

  const addImage = async (name: string, byte: number, properties: Record<string, string> = {}) => {
    const file = join(lab.servers.service.directory, name);
    await writeFile(file, Buffer.alloc(PATTERN_BYTES, byte));
    return await lab.servers.cloud.uploadImage(name, file, 'raw', properties);
  };
  const image = async (id: string): Promise<JsonObject> => lab.servers.cloud.expect('image', 'GET', `/v2/images/${id}`);
  const imagePath = (id: string) => join(lab.servers.service.stateDirectory, 'images', id);
  const act = (id: string, body: object) => lab.must('POST', `/volumes/${id}/action`, body);
  const secretOf = async (id: string) => (await lab.secretOf(id)) as SecretId;
  const holds = async (id: string, byte: number) => lab.holds(await lab.fileOf(id), await secretOf(id), byte);
  const removeImage = (id: string) => lab.servers.cloud.expect('image', 'DELETE', `/v2/images/${id}`);
  const told = async (id: string) => {
    const { messages } = await lab.must('GET', `/messages?resource_uuid=${id}`);
    return messages.map(({ event_id, user_message }: JsonObject) => [event_id, user_message]);
  };

  it('image create --volume: the image is encrypted, under a key of its own', async () => {
    const made = (await openstack.json(
      ...['image', 'create', '--volume', 'data', '--disk-format', 'qcow2', 'from-data'],
    )) as JsonObject;
    assert.equal(made.status, 'uploading');
    assert.equal(made.volume_type, 'secret');
    await lab.reach('volume', volume, 'available');
    const shown = await image(made.image_id);
    assert.deepEqual([shown.status, shown.disk_format, shown.visibility], ['active', 'qcow2', 'private']);
    assert.deepEqual([shown.os_encrypt_format, shown.os_decrypt_size], ['LUKSv1', String(GIB)]);
    assert.deepEqual([shown.hw_rng_model, shown.min_disk, shown.image_id], ['virtio', 1, undefined]);
    const key = shown.os_encrypt_key_id as SecretId;
    assert.notEqual(key, await secretOf(volume));
    const file = { path: imagePath(made.image_id), format: 'qcow2' } as const;
    assert.equal(await lab.holds(file, key, FIRST), true);
    assert.equal(await lab.opens(await secretOf(volume), file), false);
    const bytes = await readFile(file.path);
    assert.equal(bytes.includes(Buffer.alloc(64, FIRST)), false, 'the image shows what is in it');
    assert.deepEqual(await findStrays(lab.servers.service), []);
  });

  it('a volume of that image holds the same, under its own key; the image’s key goes with the image', async () => {
    const { id } = (await openstack.json('image', 'show', 'from-data')) as JsonObject;
    const copy = await lab.addVolume({ name: 'copy', volume_type: 'secret', imageRef: id });
    assert.equal(await holds(copy, FIRST), true);
    assert.equal((await lab.show('volume', copy)).volume_image_metadata.image_name, 'from-data');
    await lab.delete('volume', copy);
    const clear = await lab.ask('POST', '/volumes', { volume: { size: 1, imageRef: id } });
    assert.equal(clear.status, 400, 'its data would lie in clear');
    const secrets = await lab.countSecrets();
    await openstack.does('image', 'delete', 'from-data');
    assert.equal(await lab.countSecrets(), secrets - 1);
    assert.deepEqual(await findStrays(lab.servers.service), []);
  });

  // With a guest; copies from under one are made in test/guarantee and test/second-kernel too.
  const inWhole = process.env.NIGHTLATCH_TEST_DEPTH === 'all' ? it : () => {};
  inWhole('image create --force: of a volume that a guest has, which goes on', async () => {
    const { servers } = lab;
    const server = await servers.create(await servers.addFlavor({}), await servers.addBootImage());
    const used = await lab.addVolume({ name: 'used', volume_type: 'secret', imageRef: base });
    await lab.attach(server, used);
    const create = ['image', 'create', '--volume', 'used', '--disk-format', 'qcow2'];
    assert.match(await openstack.fails(...create, 'refused'), /status must be available to copy it/);
    const made = (await openstack.json(...create, '--force', 'forced')) as JsonObject;
    await lab.reach('volume', used, 'in-use');
    const shown = await image(made.image_id);
    assert.equal(shown.status, 'active');
    const file = { path: imagePath(made.image_id), format: 'qcow2' } as const;
    assert.equal(await lab.holds(file, shown.os_encrypt_key_id, FIRST), true);
    assert.equal(await lab.opens(await secretOf(used), file), false);
    assert.deepEqual(await findStrays(servers.service), []);
    await servers.delete(server);
    await lab.reach('volume', used, 'available');
    await lab.delete('volume', used);
    await removeImage(made.image_id);
  });

  it('in clear only when its owner says so; a clear volume’s image is in clear', async () => {
    const body = { image_name: 'open', disk_format: 'qcow2', encryption: { key: 'none' }, protected: true };
    const { 'os-volume_upload_image': made } = await act(volume, { 'os-volume_upload_image': body });
    assert.deepEqual([made.protected, made.visibility, made.disk_format], [true, 'private', 'qcow2']);
    await lab.reach('volume', volume, 'available');
    const shown = await image(made.image_id);
    assert.deepEqual([shown.status, shown.os_encrypt_key_id, shown.protected], ['active', undefined, true]);
    const [unprotect] = [[{ op: 'replace', path: '/protected', value: false }]];
    const headers = { 'content-type': 'application/openstack-images-v2.1-json-patch' };
    await lab.servers.cloud.expect('image', 'PATCH', `/v2/images/${made.image_id}`, { body: unprotect, headers });
    await removeImage(made.image_id);
  });

  it('one that fails leaves the volume as it was, no image and no secret, and says why', async () => {
    const secrets = await lab.countSecrets();
    const upload = { 'os-volume_upload_image': { image_name: 'lost', disk_format: 'qcow2' } };
    const { 'os-volume_upload_image': dropped } = await act(volume, upload);
    await removeImage(dropped.image_id);
    await lab.reach('volume', volume, 'available');
    assert.match(JSON.stringify(await told(volume)), /VOLUME_VOLUME_003_001.*was deleted while it was being made/);
    assert.equal(await lab.countSecrets(), secrets);
    assert.deepEqual(await findStrays(lab.servers.service), []);

    const large = await lab.addVolume({ name: 'large', volume_type: 'secret' });
    await lab.fill(await lab.fileOf(large), await secretOf(large), SECOND, IMAGE_SIZE_CAP);
    const { 'os-volume_upload_image': refused } = await act(large, upload);
    await lab.reach('volume', large, 'available');
    assert.match(JSON.stringify(await told(large)), /larger than the limit/);
    const gone = await lab.servers.cloud.request('image', 'GET', `/v2/images/${refused.image_id}`);
    assert.equal(gone.status, 404);
    await lab.delete('volume', large);
    assert.equal(await lab.countSecrets(), secrets);
    assert.deepEqual(await findStrays(lab.servers.service), []);
  });

  it('revert: the volume holds what its latest snapshot does, under another key; the snapshot stays', async () => {
    const first = await lab.addSnapshot(volume, { name: 'first' });
    const latest = await lab.addSnapshot(volume, { name: 'latest' });
    await lab.fill(await lab.fileOf(volume), await secretOf(volume), SECOND);
    assert.equal(await holds(volume, SECOND), true);
    const wrong = await lab.ask('POST', `/volumes/${volume}/action`, { revert: { snapshot_id: first } });
    assert.equal(wrong.status, 400);
    const old = await secretOf(volume);
    await act(volume, { revert: { snapshot_id: latest } });
    const busy = await lab.ask('POST', `/volumes/${volume}/action`, { revert: { snapshot_id: latest } });
    assert.equal(busy.status, 409, 'it is being reverted');
    await lab.reach('volume', volume, 'available');
    assert.equal((await lab.show('snapshot', latest)).status, 'available');
    assert.equal(await holds(volume, FIRST), true);
    assert.equal(new Set([old, await secretOf(volume), await secretOf(latest)]).size, 3);
    assert.deepEqual(await findStrays(lab.servers.service), []);
    await act(volume, { 'os-extend': { new_size: 2 } });
    await lab.reach('volume', volume, 'available');
    const larger = await lab.ask('POST', `/volumes/${volume}/action`, { revert: { snapshot_id: latest } });
    assert.match(JSON.stringify(larger.body), /size must be equal/);
    for (const id of [latest, first]) await lab.delete('snapshot', id);
  });

  it('reimage: the volume holds what the image does and says so, under another key', async () => {
    const other = await addImage('other', THIRD);
    const old = await secretOf(volume);
    await act(volume, { 'os-reimage': { image_id: other } });
    await lab.reach('volume', volume, 'available');
    const shown = await lab.show('volume', volume);
    assert.deepEqual([shown.volume_image_metadata.image_name, shown.size, shown.bootable], ['other', 2, 'true']);
    assert.equal(await holds(volume, THIRD), true);
    assert.notEqual(await secretOf(volume), old);
    assert.deepEqual(await findStrays(lab.servers.service), []);

    const { attachment } = await lab.must('POST', '/attachments', { attachment: { volume_uuid: volume } });
    const reserved = { 'os-reimage': { image_id: base } };
    assert.equal((await lab.ask('POST', `/volumes/${volume}/action`, reserved)).status, 400);
    await act(volume, { 'os-reimage': { image_id: base, reimage_reserved: true } });
    await lab.reach('volume', volume, 'reserved');
    assert.equal(await holds(volume, FIRST), true);
    await lab.must('DELETE', `/attachments/${attachment.id}`);
    await lab.delete('volume', volume);
    assert.equal(await lab.countSecrets(), 0);
    assert.deepEqual(await findStrays(lab.servers.service), []);
  });
});
