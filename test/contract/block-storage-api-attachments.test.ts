import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { sql } from 'kysely';
import { type AttachmentId, newId } from '#core/ids.ts';
import { insertAttachment } from '#db/volume-attachments.ts';
import type { Volume } from '#db/volumes.ts';
import { type BlockStorageLab, openBlockStorageLab } from '#test/support/block-storage-lab.ts';
import { addImage } from '#test/support/compute-lab.ts';

/** As a client like Nova, or `openstack volume attachment`, goes about it. */
describe('attachments that a client writes down', () => {
  let lab: BlockStorageLab;
  let volume: Volume;
  let server: string;
  before(async () => {
    lab = await openBlockStorageLab();
    volume = await lab.addVolume(lab.projects.one);
    const imageRef = await addImage(lab.db, lab.projects.one);
    const flavor = { name: 'small', ram: 64, vcpus: 1, disk: 1, id: '1' };
    await lab.raw('POST', '/flavors', { as: 'admin', body: { flavor } });
    const made = await lab.raw('POST', '/servers', { body: { server: { name: 'web', imageRef, flavorRef: '1' } } });
    server = made.body.server.id;
  });
  after(() => lab[Symbol.asyncDispose]());

  type Options = { readonly version?: string; readonly as?: 'admin' | 'member' | 'reader' | 'stranger' };
  const ask = (method: 'GET' | 'POST' | 'PUT' | 'DELETE', path: string, body?: object, options: Options = {}) =>
    lab.call(method, path, { version: '3.70', ...options, ...(body === undefined ? {} : { body }) });
  const create = (more: object = {}, options: Options = {}) =>
    ask('POST', '/attachments', { attachment: { volume_uuid: volume.id, instance_uuid: server, ...more } }, options);
  const statusOf = async () => (await ask('GET', `/volumes/${volume.id}`)).body.volume.status;

  it('reserve, connect, complete and delete: the volume’s status follows, and no answer has a key or a path', async () => {
    const { status, body } = await create({ connector: {} });
    assert.equal(status, 200);
    const { attachment } = body;
    assert.deepEqual(
      { ...attachment, id: '' },
      {
        ...{ id: '', volume_id: volume.id, instance: server, status: 'reserved', attach_mode: 'rw' },
        ...{ attached_at: '', detached_at: '', connection_info: {} },
      },
    );
    assert.equal(await statusOf(), 'reserved');
    const path = `/attachments/${attachment.id}`;
    const early = await ask('POST', `${path}/action`, { 'os-complete': null });
    assert.equal(early.status, 400, 'nobody said what it is connected to');

    const connector = { host: 'elsewhere', ip: null, multipath: false, wwpns: ['a'] };
    const connected = (await ask('PUT', path, { attachment: { connector } })).body.attachment;
    assert.deepEqual([connected.status, await statusOf()], ['attaching', 'attaching']);
    assert.deepEqual(connected.connection_info, {
      ...{ driver_volume_type: 'nightlatch', attachment_id: attachment.id, volume_id: volume.id },
      ...{ access_mode: 'rw', encrypted: false },
    });

    assert.equal((await ask('POST', `${path}/action`, { 'os-complete': {} })).status, 204);
    const { volume: shown } = (await ask('GET', `/volumes/${volume.id}`)).body;
    assert.equal(shown.status, 'in-use');
    assert.deepEqual(
      shown.attachments.map((each: { attachment_id: string; server_id: string }) => [
        each.attachment_id,
        each.server_id,
      ]),
      [[attachment.id, server]],
    );
    assert.deepEqual((await ask('DELETE', path)).body, { attachments: [] });
    assert.equal(await statusOf(), 'available');
    assert.equal((await ask('GET', path)).status, 404);
    assert.equal((await ask('DELETE', path)).status, 404);
  });

  it('with a connector from the start it is attaching; a second one is refused', async () => {
    const { body } = await create({ connector: { host: 'here', mountpoint: '/dev/vdz' }, mode: 'ro' });
    assert.deepEqual([body.attachment.status, body.attachment.attach_mode], ['attaching', 'ro']);
    assert.match(JSON.stringify((await create()).body), /status must be available to attach it.*attaching/);
    await ask('DELETE', `/attachments/${body.attachment.id}`);
  });

  it('one that is left over when an admin has reset the volume can be deleted, and is in nobody’s way', async () => {
    const { body } = await create();
    const reset = { 'os-reset_status': { status: 'error' } };
    const action = `/volume/v3/${lab.projects.one}/volumes/${volume.id}/action`;
    await lab.raw('POST', action, { as: 'admin', body: reset });
    assert.deepEqual((await ask('DELETE', `/attachments/${body.attachment.id}`)).body, { attachments: [] });
    assert.equal(await statusOf(), 'available');
    const left = await create();
    await lab.raw('POST', action, { as: 'admin', body: { 'os-reset_status': { status: 'available' } } });
    const next = await create();
    assert.equal(next.status, 200);
    assert.equal((await ask('GET', `/attachments/${left.body.attachment.id}`)).status, 404);
    await ask('DELETE', `/attachments/${next.body.attachment.id}`);
  });

  it('of two at once one is made', async () => {
    const answers = await Promise.all([create(), create()]);
    assert.deepEqual(answers.map(({ status }) => status).sort(), [200, 400]);
    const made = answers.find(({ status }) => status === 200);
    await ask('POST', `/volumes/${volume.id}/action`, { 'os-unreserve': null });
    assert.equal((await ask('GET', `/attachments/${made?.body.attachment.id}`)).status, 404);
    assert.equal(await statusOf(), 'available');
  });

  it('what a server has is shown as it is, and is not taken from it here', async () => {
    const held = await lab.addVolume(lab.projects.one, { status: 'in-use' });
    const facts = { volume_id: held.id, server_id: server as never, status: 'attached', device: '/dev/vdb' } as const;
    const { id } = await insertAttachment(lab.db, { ...facts, id: newId<AttachmentId>(), boot_index: null });
    const { attachment } = (await ask('GET', `/attachments/${id}`)).body;
    assert.deepEqual([attachment.instance, attachment.status], [server, 'attached']);
    const refused = await ask('DELETE', `/attachments/${id}`);
    assert.equal(refused.status, 409);
    assert.match(JSON.stringify(refused.body), /Detach volume from instance .* using the Compute API/);
    assert.equal((await ask('PUT', `/attachments/${id}`, { attachment: { connector: { host: 'x' } } })).status, 409);
    assert.equal((await ask('POST', `/attachments/${id}/action`, { 'os-complete': null })).status, 409);
    assert.equal((await ask('POST', `/volumes/${held.id}/action`, { 'os-detach': {} })).status, 409);
    assert.equal((await ask('GET', `/volumes/${held.id}`)).body.volume.attachments[0].attachment_id, id);
  });

  it('are listed by project, volume, server and status, in pages', async () => {
    const { body } = await create();
    const ids = async (query: string, options: Options = {}) =>
      (await ask('GET', `/attachments${query}`, undefined, options)).body.attachments.map(
        ({ id }: { id: string }) => id,
      );
    assert.equal((await ids('')).length, 2);
    assert.deepEqual(await ids(`?volume_id=${volume.id}`), [body.attachment.id]);
    assert.deepEqual(await ids('?status=reserved'), [body.attachment.id]);
    assert.equal((await ids(`?instance_id=${server}`)).length, 2);
    assert.deepEqual(await ids('', { as: 'stranger' }), []);
    assert.deepEqual(await ids('', { as: 'admin' }), []);
    assert.equal((await ids('?all_tenants=1', { as: 'admin' })).length, 2);
    assert.deepEqual(await ids('?all_tenants=1&project_id=x', { as: 'admin' }), []);
    const first = (await ask('GET', '/attachments/detail?limit=1&sort=created_at:asc')).body;
    assert.equal(first.attachments[0].connection_info !== undefined, true);
    assert.match(first.attachments_links[0].href, /attachments\/detail\?.*marker=/);
    await ask('DELETE', `/attachments/${body.attachment.id}`);
  });

  it('are refused to those who may not, for servers that are not there, and before their microversion', async () => {
    assert.equal((await create({}, { as: 'reader' })).status, 403);
    assert.equal((await create({}, { as: 'stranger' })).status, 404);
    assert.equal((await create({ instance_uuid: newId() })).status, 404);
    assert.equal((await create({ volume_uuid: newId() })).status, 404);
    assert.equal((await create({}, { version: '3.26' })).status, 404);
    assert.equal((await create({ mode: 'ro' }, { version: '3.53' })).status, 400);
    assert.equal((await create({ connector: { nested: { a: 'b' } } })).status, 400);
    const { body } = await create();
    const path = `/attachments/${body.attachment.id}`;
    for (const [as, expected] of [
      ['reader', 403],
      ['stranger', 404],
    ] as const) {
      assert.equal((await ask('DELETE', path, undefined, { as })).status, expected);
      assert.equal((await ask('PUT', path, { attachment: { connector: {} } }, { as })).status, expected);
    }
    assert.equal((await ask('GET', path, undefined, { as: 'reader' })).status, 200);
    const complete = { 'os-complete': {} };
    assert.equal((await ask('POST', `${path}/action`, complete, { version: '3.43' })).status, 404);
    await ask('DELETE', path);
  });
});

describe('lists and actions that came with later microversions', () => {
  let lab: BlockStorageLab;
  before(async () => {
    lab = await openBlockStorageLab();
  });
  after(() => lab[Symbol.asyncDispose]());

  it('os-force_detach: by an admin, of what a client wrote down', async () => {
    const volume = await lab.addVolume(lab.projects.one);
    const path = `/volumes/${volume.id}/action`;
    await lab.call('POST', path, { body: { 'os-attach': { mountpoint: '/dev/vdc' } } });
    const body = { 'os-force_detach': { attachment_id: null, connector: null } };
    assert.equal((await lab.call('POST', path, { body })).status, 403);
    const at = `/volume/v3/${lab.projects.one}${path}`;
    assert.equal((await lab.raw('POST', at, { as: 'admin', body })).status, 202);
    assert.equal((await lab.call('GET', `/volumes/${volume.id}`)).body.volume.status, 'available');
    assert.equal((await lab.raw('POST', at, { as: 'admin', body })).status, 202, 'it is attached to nothing');
  });

  it('os-reserve and os-unreserve: attaching, and not any more', async () => {
    const { id } = await lab.addVolume(lab.projects.one);
    const after = async (action: string) => {
      await lab.call('POST', `/volumes/${id}/action`, { body: { [action]: null } });
      return (await lab.call('GET', `/volumes/${id}`)).body.volume.status;
    };
    assert.equal(await after('os-reserve'), 'attaching');
    assert.equal(await after('os-unreserve'), 'available');
    assert.equal(await after('os-unreserve'), 'available');
  });

  it('a snapshot’s force can only be true from 3.66 on', async () => {
    const { id } = await lab.addVolume(lab.projects.one);
    const body = { snapshot: { volume_id: id, force: false } };
    const { status, body: answer } = await lab.call('POST', '/snapshots', { version: '3.66', body });
    assert.match(`${status} ${JSON.stringify(answer)}`, /^400.*'force' flag can only be true/);
  });

  it('volumes are listed by when they were made and changed', async () => {
    const project = lab.projects.two;
    const [early, late] = [await lab.addVolume(project), await lab.addVolume(project)];
    const times = { [early.id]: '2026-01-01T10:00:00Z', [late.id]: '2026-02-01T10:00:00Z' };
    for (const [id, time] of Object.entries(times)) {
      await sql`update volumes set created_at = ${time}, updated_at = ${time} where id = ${id}`.execute(lab.db);
    }
    const list = async (query: string) => {
      const { body } = await lab.call('GET', `/volumes?sort=created_at:asc&${query}`, {
        as: 'stranger',
        version: '3.60',
      });
      return body.volumes?.map(({ id }: { id: string }) => id) ?? body.badRequest.message;
    };
    assert.deepEqual(await list('created_at=gt:2026-01-01T10:00:00'), [late.id]);
    assert.deepEqual(await list('created_at=gte:2026-01-01T10:00:00,lt:2026-02-01T10:00:00'), [early.id]);
    assert.deepEqual(await list('updated_at=2026-02-01T11:00:00%2B01:00'), [late.id]);
    assert.deepEqual(await list('updated_at=neq:2026-02-01T10:00:00'), [early.id]);
    for (const wrong of ['yesterday', 'gt:', 'like:2026-01-01', '2026-13-01']) {
      assert.match(await list(`created_at=${wrong}`), /is no time/, wrong);
    }
  });

  it('resource_filters tells what lists are restricted by', async () => {
    const { body } = await lab.call('GET', '/resource_filters?resource=backup', { version: '3.33' });
    assert.deepEqual(body.resource_filters, [
      { resource: 'backup', filters: ['name', 'status', 'volume_id', 'snapshot_id'] },
    ]);
    const all = await lab.call('GET', '/resource_filters', { version: '3.33' });
    assert.ok(all.body.resource_filters.length >= 7);
    assert.equal((await lab.call('GET', '/resource_filters', { version: '3.32' })).status, 404);
  });
});
