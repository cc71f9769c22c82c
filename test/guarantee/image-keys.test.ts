import assert from 'node:assert/strict';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { after, before, describe, it } from 'node:test';
import { CloudClient, type JsonObject } from '#cli/cloud/client.ts';
import { bootSector } from '#test/support/boot-sector.ts';
import { ServerLab } from '#test/support/server-lab.ts';
import { findStrays } from '#test/support/strays.ts';
import { waitUntil } from '#test/support/wait.ts';

/*
 * The key of an image opens that image for its own project, as long as the image is there; whoever tries anything else gets
 * nothing, is told why, and destroys nothing.
 */

const HEADERS = { 'content-type': 'application/openstack-images-v2.1-json-patch' };

describe('the key of an image', { timeout: 600_000 }, () => {
  let lab: ServerLab;
  let flavor: string;
  let server: string;
  let image: JsonObject;
  let other: CloudClient;

  before(async () => {
    lab = await ServerLab.open({ shutdownTimeout: 1 });
    flavor = await lab.addFlavor({}, { disk: 0, ephemeral: 0, swap: 0 });
    const secret = await lab.addFlavor({ 'hw:ephemeral_encryption': 'true' }, { disk: 0, ephemeral: 0, swap: 0 });
    server = await lab.create(secret, await lab.addBootImage());
    image = await snapshot('secret');
    other = await openOtherProject();
  });
  after(() => lab[Symbol.asyncDispose]());

  const imageOf = async (id: string) => (await lab.cloud.request('image', 'GET', `/v2/images/${id}`)).body;
  const remove = (id: string) => lab.cloud.request('image', 'DELETE', `/v2/images/${id}`);
  const snapshot = async (name: string): Promise<JsonObject> => {
    const { image_id } = await lab.cloud.act(server, { createImage: { name } });
    await lab.cloud.waitForStatus(server, 'ACTIVE');
    return await imageOf(image_id);
  };
  const openOtherProject = async (): Promise<CloudClient> => {
    const projectBody = { body: { project: { name: 'others' } } };
    const { project } = await lab.cloud.expect('identity', 'POST', '/v3/projects', projectBody);
    const userBody = { body: { user: { name: 'mallory', password: 'pass of mallory' } } };
    const { user } = await lab.cloud.expect('identity', 'POST', '/v3/users', userBody);
    const [role] = (await lab.cloud.expect('identity', 'GET', '/v3/roles?name=member')).roles;
    const grant = `/v3/projects/${project.id}/users/${user.id}/roles/${role.id}`;
    await lab.cloud.expect('identity', 'PUT', grant);
    const authUrl = `${lab.service.url}/identity/v3`;
    return new CloudClient({
      authUrl,
      userName: 'mallory',
      password: 'pass of mallory',
      projectName: 'others',
      domainId: 'default',
    });
  };
  /** The bytes of an image, uploaded again under other properties. */
  const uploadAgain = async (cloud: CloudClient, bytes: Buffer, properties: object): Promise<string> => {
    const description = { name: 'again', disk_format: 'qcow2', container_format: 'bare', ...properties };
    const { id } = await cloud.expect('image', 'POST', '/v2/images', { body: description });
    await cloud.expect('image', 'PUT', `/v2/images/${id}/file`, { stream: Readable.from([bytes]) });
    return id;
  };
  const download = async ({ id }: JsonObject): Promise<Buffer> => {
    const answer = await fetch(`${lab.service.url}/image/v2/images/${id}/file`, {
      headers: { 'x-auth-token': await lab.cloud.token() },
    });
    return Buffer.from(await answer.arrayBuffer());
  };
  const encryption = (of: JsonObject) =>
    Object.fromEntries(Object.entries(of).filter(([name]) => /^os_(en|de)crypt/.test(name)));
  const boot = (cloud: CloudClient, imageRef: string, flavorRef = flavor) => {
    const body = { server: { name: 'x', imageRef, flavorRef, networks: 'none' } };
    return cloud.request('compute', 'POST', '/v2.1/servers', { body });
  };
  /** A server that was let through and must fail; returns its fault. It is deleted. */
  const faultOf = async (cloud: CloudClient, answer: { status: number; body: JsonObject }): Promise<string> => {
    assert.equal(answer.status, 202, JSON.stringify(answer.body));
    const { id } = answer.body.server;
    await assert.rejects(cloud.waitForStatus(id, 'ACTIVE'));
    const { fault } = await cloud.server(id);
    await cloud.expect('compute', 'DELETE', `/v2.1/servers/${id}`);
    await cloud.waitUntilGone(id);
    return fault.message;
  };

  it('is not given to another project that may see the image', async () => {
    const publish = [{ op: 'replace', path: '/visibility', value: 'public' }];
    await lab.cloud.expect('image', 'PATCH', `/v2/images/${image.id}`, { body: publish, headers: HEADERS });
    const answer = await boot(other, image.id);
    assert.equal(answer.status, 403);
    assert.match(answer.body.forbidden.message, /its key belongs to another project/);
    assert.deepEqual((await other.expect('compute', 'GET', '/v2.1/servers')).servers, []);
  });

  it('is not given to another project that names it for a copy of the bytes', async () => {
    const second = await snapshot('second');
    const [first, another] = [image, second].map(async (victim) => {
      const copy = await uploadAgain(other, await download(victim), encryption(victim));
      assert.match(await faultOf(other, await boot(other, copy)), /is no secret of this project/);
      return copy;
    });
    const remains = async ({ os_encrypt_key_id: id }: JsonObject) =>
      (await lab.db.selectFrom('secrets').select('id').where('id', '=', id).execute()).length === 1;
    await other.expect('image', 'DELETE', `/v2/images/${await first}`);
    assert.equal(await remains(image), true, 'the key went with an image of another project');
    await remove(second.id);
    assert.equal(await remains(second), false, 'the key was kept by an image of another project');
    await other.expect('image', 'DELETE', `/v2/images/${await another}`);
    assert.deepEqual(await findStrays(lab.service), []);
  });

  it('is told apart from a wrong one', async () => {
    const second = await snapshot('second');
    const wrong = { ...encryption(image), os_encrypt_key_id: second.os_encrypt_key_id };
    const copy = await uploadAgain(lab.cloud, await download(image), wrong);
    const { status, body } = await boot(lab.cloud, copy);
    assert.match(
      await waitForFault(body.server.id, status),
      new RegExp(`The key of image ${copy} does not open it: os_encrypt_key_id names another key`),
    );
    // Both name the key of `second`: it goes with the last of them.
    await remove(second.id);
    const keys = lab.db.selectFrom('secrets').select('id').where('id', '=', second.os_encrypt_key_id);
    assert.equal((await keys.execute()).length, 1, 'a key went that an image still names');
    await remove(copy);
    assert.deepEqual(await findStrays(lab.service), []);
  });
  const waitForFault = async (id: string, status: number): Promise<string> => {
    assert.equal(status, 202);
    await assert.rejects(lab.cloud.waitForStatus(id, 'ACTIVE'));
    const { fault } = await lab.cloud.server(id);
    await lab.delete(id);
    return fault.message;
  };

  it('stays when an image goes that names the key of a disk', async () => {
    const [disk] = await lab.disksOf(server);
    const claim = { ...encryption(image), os_encrypt_key_id: disk?.secretId };
    const copy = await uploadAgain(lab.cloud, await download(image), claim);
    await remove(copy);
    assert.deepEqual(await findStrays(lab.service), [], 'the key of a disk went with an image');
    await lab.cloud.act(server, { reboot: { type: 'HARD' } });
    await lab.cloud.waitForStatus(server, 'ACTIVE');
  });

  it('cannot be exchanged, nor taken from the image', async () => {
    for (const patch of [
      { op: 'replace', path: '/os_encrypt_key_id', value: crypto.randomUUID() },
      { op: 'remove', path: '/os_encrypt_key_id' },
      { op: 'replace', path: '/os_encrypt_key_deletion_policy', value: 'do_not_delete' },
    ]) {
      const answer = await lab.cloud.request('image', 'PATCH', `/v2/images/${image.id}`, {
        body: [patch],
        headers: HEADERS,
      });
      assert.equal(answer.status, 403, JSON.stringify(patch));
    }
    assert.deepEqual(encryption(await imageOf(image.id)), encryption(image));
  });

  it('opens nothing onto a disk in clear', async () => {
    const clear = await lab.addFlavor({ 'hw:ephemeral_encryption': 'false' }, { disk: 0, ephemeral: 0, swap: 0 });
    const answer = await boot(lab.cloud, image.id, clear);
    assert.equal(answer.status, 409);
    assert.match(answer.body.conflictingRequest.message, /its data would lie on the host in clear/);
  });

  it('is asked for by every upload that is encrypted, and by none that is not', async () => {
    const bytes = await download(image);
    const { os_encrypt_key_id: _, ...withoutKey } = encryption(image);
    const keyless = await uploadAgain(lab.cloud, bytes, withoutKey);
    const answer = await boot(lab.cloud, keyless);
    assert.equal(answer.status, 403);
    assert.match(answer.body.forbidden.message, /has no os_encrypt_key_id/);
    await remove(keyless);
    await assert.rejects(uploadAgain(lab.cloud, bytes, {}), /it is encrypted; decrypt it/);
    await assert.rejects(
      uploadAgain(lab.cloud, bytes, { ...encryption(image), os_decrypt_size: '4096' }),
      /its os_decrypt_size is 4096, but it holds 1048576 bytes/,
    );
    const plain = join(lab.service.directory, 'plain.raw');
    await writeFile(plain, Buffer.concat([bootSector(), Buffer.alloc(4096)]));
    await assert.rejects(
      lab.cloud.uploadImage('plain', plain, 'raw', encryption(image) as Record<string, string>),
      /has no LUKSv1 header/,
    );
    for (const { id, status } of (await lab.cloud.expect('image', 'GET', '/v2/images')).images) {
      if (status === 'queued') await remove(id);
    }
    assert.deepEqual(await findStrays(lab.service), []);
  });

  it('goes with an image that is deleted while servers are made from it: they are made, or told', async () => {
    const second = await snapshot('second');
    const answers = await Promise.all([1, 2, 3].map(() => boot(lab.cloud, second.id)));
    await remove(second.id);
    for (const { body } of answers) {
      const { id } = body.server;
      const isSettled = async () => ['ACTIVE', 'ERROR'].includes((await lab.cloud.server(id)).status);
      await waitUntil(`server ${id} is settled`, isSettled, 60_000);
      const { fault } = await lab.cloud.server(id);
      if (fault) assert.match(fault.message, /mage .* could not be found|Reading the key of image .* failed/);
      await lab.delete(id);
    }
    assert.deepEqual(await findStrays(lab.service), []);
  });

  it('goes with a server that is deleted while its image is made', async () => {
    const large = await lab.addFlavor({ 'hw:ephemeral_encryption': 'true' }, { disk: 2, ephemeral: 0, swap: 0 });
    for (const isStopped of [false, true]) {
      const id = await lab.create(large, await lab.addBootImage());
      if (isStopped) {
        await lab.cloud.act(id, { 'os-stop': null });
        await lab.cloud.waitForStatus(id, 'SHUTOFF');
      }
      const { image_id } = await lab.cloud.act(id, { createImage: { name: 'cut short' } });
      await lab.delete(id);
      const left = await imageOf(image_id);
      // The image may have been quicker.
      if (left.status === 'active') await remove(image_id);
      assert.deepEqual(await findStrays(lab.service), []);
    }
  });

  it('goes when the image is deleted while it is being made, and the server goes on', async () => {
    const { image_id } = await lab.cloud.act(server, { createImage: { name: 'unwanted' } });
    await remove(image_id);
    const { fault } = await lab.cloud.waitForStatus(server, 'ACTIVE');
    if (fault) assert.match(fault.message, /was deleted while it was being made|could not be found/);
    assert.equal((await lab.cloud.request('image', 'GET', `/v2/images/${image_id}`)).status, 404);
    assert.deepEqual(await findStrays(lab.service), []);
  });
});
