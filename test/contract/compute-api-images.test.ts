import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import type { ImageId } from '#core/ids.ts';
import { updateServer } from '#db/servers.ts';
import { addImage, type Call, type ComputeLab, openComputeLab } from '#test/support/compute-lab.ts';

/* What is judged before an image is made of a server, or a server is shelved. What then happens is for real guests. */

let lab: ComputeLab;
let flavor: string;

before(async () => {
  lab = await openComputeLab();
  const body = { flavor: { name: 'tiny', ram: 64, vcpus: 1, disk: 1 } };
  flavor = (await lab.call('POST', '/flavors', { as: 'admin', body })).body.flavor.id;
});
after(() => lab[Symbol.asyncDispose]());

async function ask(imageRef: ImageId, flavorRef = flavor, call: Call = {}) {
  const body = { server: { name: 'web', imageRef, flavorRef } };
  return await lab.call('POST', '/servers', { ...call, body });
}

async function createActive(): Promise<string> {
  const answer = await ask(await addImage(lab.db, lab.projects.one));
  await lab.operations.run(answer.body.server.id);
  return answer.body.server.id;
}

const act = (id: string, body: object, call: Call = {}) => lab.call('POST', `/servers/${id}/action`, { ...call, body });

describe('createImage', () => {
  it('answers with the image’s address, and from 2.45 on with its id', async () => {
    const old = await act(await createActive(), { createImage: { name: 'copy' } });
    assert.deepEqual([old.status, old.body], [202, '']);
    assert.match(String(old.headers.location), /^http:\/\/cloud\.example:8774\/image\/v2\/images\/[0-9a-f-]{36}$/);
    const now = await act(await createActive(), { createImage: { name: 'copy' } }, { version: '2.45' });
    assert.equal(now.status, 202);
    assert.match(now.body.image_id, /^[0-9a-f-]{36}$/);
    assert.equal(now.headers.location, undefined);
  });

  it('makes an encrypted image of an encrypted disk unless its owner says otherwise', async () => {
    await act(await createActive(), { createImage: { name: 'copy', metadata: { purpose: 'test' } } });
    const clear = { createImage: { name: 'copy', encryption: { key: 'none' } } };
    assert.equal((await act(await createActive(), clear)).status, 202);
    assert.deepEqual(lab.operations.images.slice(-2), [
      { name: 'copy', properties: { purpose: 'test' }, encryption: 'new' },
      { name: 'copy', properties: {}, encryption: 'none' },
    ]);
    const byAdmin = await act(await createActive(), clear, { as: 'admin' });
    assert.equal(byAdmin.status, 403);
    assert.match(byAdmin.body.forbidden.message, /Only its own project can have an image of server .* in clear/);
    assert.equal((await act(await createActive(), { createImage: { name: 'copy' } }, { as: 'admin' })).status, 202);
  });

  const refusals: Readonly<Record<string, [object, number]>> = {
    'no name': [{}, 400],
    'an empty name': [{ name: '' }, 400],
    'a name that is too long': [{ name: 'x'.repeat(256) }, 400],
    'a field there is not': [{ name: 'copy', rotation: 1 }, 400],
    'the key of the disk': [{ name: 'copy', encryption: { key: 'same' } }, 400],
    'a key of the user’s': [{ name: 'copy', encryption: { key: 'existing', secret_uuid: 'x' } }, 400],
    'a key there is not': [{ name: 'copy', encryption: { key: 'any' } }, 400],
    'a property that only we set': [{ name: 'copy', metadata: { os_encrypt_key_id: 'x' } }, 400],
    'an encryption wish that is neither': [{ name: 'copy', metadata: { hw_ephemeral_encryption: 'maybe' } }, 400],
    'too much metadata': [
      { name: 'copy', metadata: Object.fromEntries(Array.from({ length: 129 }, (_, i) => [`k${i}`, 'v'])) },
      403,
    ],
  };
  for (const [what, [asked, status]] of Object.entries(refusals)) {
    it(`refuses ${what}`, async () => {
      const made = lab.operations.images.length;
      assert.equal((await act(await createActive(), { createImage: asked })).status, status);
      assert.equal(lab.operations.images.length, made);
    });
  }

  it('is for members of the project, of a server that is not busy and not locked', async () => {
    const body = { createImage: { name: 'copy' } };
    const id = await createActive();
    assert.equal((await act(id, body, { as: 'reader' })).status, 403);
    assert.equal((await act(id, body, { as: 'stranger' })).status, 404);
    assert.equal((await act(id, { lock: null })).status, 202);
    assert.equal((await act(id, body)).status, 409);
    assert.equal((await act(id, { unlock: null })).status, 202);
    assert.equal((await act(id, body)).status, 202);
    const again = await act(id, body);
    assert.equal(again.status, 409);
    assert.match(again.body.conflictingRequest.message, /'createImage' .* task_state image_snapshot_pending/);
  });
});

describe('shelve, unshelve, shelveOffload', () => {
  it('follow the states, and only an admin offloads', async () => {
    const id = await createActive();
    assert.equal((await act(id, { unshelve: null })).status, 409);
    assert.equal((await act(id, { shelveOffload: null }, { as: 'admin' })).status, 409);
    assert.equal((await act(id, { shelve: null })).status, 202);
    await lab.operations.end(id, { vm_state: 'shelved', power_state: 'shutdown' });
    assert.equal((await lab.call('GET', `/servers/${id}`)).body.server.status, 'SHELVED');
    assert.equal((await act(id, { shelveOffload: null })).status, 403);
    assert.equal((await act(id, { shelveOffload: null }, { as: 'admin' })).status, 202);
    await lab.operations.end(id, { vm_state: 'shelved_offloaded', power_state: 'shutdown', host: null });
    const { server } = (await lab.call('GET', `/servers/${id}`)).body;
    assert.deepEqual([server.status, server.hostId], ['SHELVED_OFFLOADED', '']);
    assert.equal((await act(id, { 'os-start': null })).status, 409);
    assert.equal((await act(id, { unshelve: { availability_zone: 'moon' } })).status, 400);
    assert.equal((await act(id, { unshelve: { host: 'other' } })).status, 400);
    assert.equal((await act(id, { unshelve: { availability_zone: 'nova' } })).status, 202);
  });
});

describe('a server from an encrypted image', () => {
  const encrypted = { os_encrypt_format: 'LUKSv1', os_encrypt_key_id: crypto.randomUUID() };

  it('has encrypted disks, unless flavor or image refuse: then there is none', async () => {
    const image = await addImage(lab.db, lab.projects.one, { properties: encrypted });
    assert.equal((await ask(image)).status, 202);
    assert.equal(lab.operations.requests.at(-1)?.intent.encrypted, true);
    const properties = { ...encrypted, hw_ephemeral_encryption: 'false' };
    const contradictory = await ask(await addImage(lab.db, lab.projects.one, { properties }));
    assert.equal(contradictory.status, 409);
    assert.match(
      contradictory.body.conflictingRequest.message,
      /is encrypted but it has hw_ephemeral_encryption=false/,
    );
  });

  it('belongs to the project that has the key, whoever sees the image', async () => {
    const image = await addImage(lab.db, lab.projects.one, { properties: encrypted, visibility: 'public' });
    for (const as of ['stranger', 'admin'] as const) {
      const answer = await ask(image, flavor, { as });
      assert.equal(answer.status, 403, as);
      assert.match(answer.body.forbidden.message, /its key belongs to another project/);
    }
    const keyless = await addImage(lab.db, lab.projects.one, { properties: { os_encrypt_format: 'LUKSv1' } });
    assert.equal((await ask(keyless)).status, 403);
  });

  it('is not rescued or rebuilt by others with what they cannot open', async () => {
    const id = await createActive();
    await updateServer(lab.db, id as never, { launched_at: new Date() });
    const foreign = await addImage(lab.db, lab.projects.two, { properties: encrypted, visibility: 'public' });
    assert.equal((await act(id, { rescue: { rescue_image_ref: foreign } })).status, 403);
    assert.equal((await act(id, { rebuild: { imageRef: foreign } })).status, 403);
  });
});
