import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { sql } from 'kysely';
import { newId } from '#core/ids.ts';
import { type BlockStorageLab, openBlockStorageLab } from '#test/support/block-storage-lab.ts';
import { addImage } from '#test/support/compute-lab.ts';

/** What is refused before anything is begun; what is done, with a host: test/scenario/openstack-volume-content.test.ts. */
describe('actions on the content of a volume', () => {
  let lab: BlockStorageLab;
  let volume: string;
  before(async () => {
    lab = await openBlockStorageLab();
    volume = (await lab.addVolume(lab.projects.one)).id;
  });
  after(() => lab[Symbol.asyncDispose]());

  const act = async (body: object, version = '3.70', as: 'member' | 'admin' | 'reader' | 'stranger' = 'member') => {
    const { status, body: answer } = await lab.call('POST', `/volumes/${volume}/action`, { as, version, body });
    const [fault] = Object.values(answer as Record<string, { message?: string }>);
    return [status, fault?.message ?? ''] as const;
  };
  const upload = (more: object = {}) => ({ 'os-volume_upload_image': { image_name: 'x', ...more } });

  it('upload: only formats that are served, with what the microversion has', async () => {
    for (const disk_format of ['vmdk', 'vdi', 'vhd', 'vhdx', 'ploop']) {
      assert.match((await act(upload({ disk_format }))).join(), /^400.*raw or qcow2 in a bare container/);
    }
    assert.match((await act(upload({ container_format: 'compressed' }))).join(), /^400.*compressed is not served/);
    assert.equal((await act(upload({ disk_format: 'iso' })))[0], 400);
    assert.equal((await act(upload({ image_name: ' ' })))[0], 400);
    assert.equal((await act(upload({ other: 'x' })))[0], 400);
    assert.match((await act(upload({ visibility: 'private' }), '3.0')).join(), /^400.*came with microversion 3.1/);
    assert.equal((await act(upload({ protected: false }), '3.0'))[0], 400);
    assert.equal((await act(upload({ visibility: 'everybody' })))[0], 400);
  });

  it('upload: a public image is for admins, a clear one for the volume’s own project, neither for readers', async () => {
    assert.equal((await act(upload({ visibility: 'public' })))[0], 403);
    assert.equal((await act(upload(), '3.70', 'reader'))[0], 403);
    assert.equal((await act(upload(), '3.70', 'stranger'))[0], 404);
    const clear = await lab.raw('POST', `/volume/v3/${lab.projects.one}/volumes/${volume}/action`, {
      ...{ as: 'admin', version: '3.70', body: upload({ encryption: { key: 'none' } }) },
    });
    assert.equal(clear.status, 403);
    assert.match(JSON.stringify(clear.body), /Only its own project can have an image of volume/);
    assert.equal((await act(upload({ encryption: { key: 'same' } })))[0], 400);
  });

  it('image metadata: of changes at once none is lost', async () => {
    const keys = ['a', 'b', 'c', 'd', 'e', 'f'];
    await Promise.all(keys.map((key) => act({ 'os-set_image_metadata': { metadata: { [key]: key } } })));
    const { body } = await lab.call('GET', `/volumes/${volume}`);
    assert.deepEqual(Object.keys(body.volume.volume_image_metadata).sort(), keys);
    await Promise.all(keys.map((key) => act({ 'os-unset_image_metadata': { key } })));
    assert.equal((await act({ 'os-unset_image_metadata': { key: 'a' } }))[0], 404);
    assert.deepEqual((await lab.call('GET', `/volumes/${volume}`)).body.volume.volume_image_metadata ?? {}, {});
  });

  it('revert and reimage: from their microversions on, and for those who may', async () => {
    const revert = { revert: { snapshot_id: newId() } };
    const reimage = { 'os-reimage': { image_id: newId() } };
    assert.equal((await act(revert, '3.39'))[0], 404);
    assert.equal((await act(reimage, '3.67'))[0], 404);
    assert.equal((await act(revert, '3.70', 'reader'))[0], 403);
    assert.equal((await act(reimage, '3.70', 'reader'))[0], 403);
    assert.equal((await act({ revert: {} }))[0], 400);
    assert.match((await act(reimage)).join(), /^400.*unable to access requested image/);
  });

  it('an image may be named, by a name that only one has', async () => {
    const { raw, db, projects } = lab;
    const named = (name: string) => act({ 'os-reimage': { image_id: name } });
    assert.match((await named('debian')).join(), /^400.*unable to access/);
    const first = await addImage(db, projects.one, { status: 'queued' });
    const others = await addImage(db, projects.two, { status: 'queued' });
    const call = (id: string) => sql`update images set name = 'debian' where id = ${id}`.execute(db);
    for (const id of [first, others]) await call(id);
    assert.match((await named('debian')).join(), new RegExp(`^400.*Image ${first} is not active`));
    await call(await addImage(db, projects.one, { status: 'queued' }));
    assert.match((await named('debian')).join(), /^409.*Multiple image matches found/);
    const path = `/volume/v3/${projects.one}/volumes`;
    const create = await raw('POST', path, { version: '3.70', body: { volume: { size: 1, imageRef: 'debian' } } });
    assert.equal(create.status, 409);
  });
});
