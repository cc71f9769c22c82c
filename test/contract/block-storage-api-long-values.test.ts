import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { newId } from '#core/ids.ts';
import { insertBackup } from '#db/backups.ts';
import { insertSnapshot } from '#db/snapshots.ts';
import { type BlockStorageLab, openBlockStorageLab } from '#test/support/block-storage-lab.ts';

/** A mebibyte where a name, a description or a value belongs is refused with 400 and words that do not carry it. */
const LARGE = 'n'.repeat(1024 * 1024);

describe('a mebibyte in a field', () => {
  let lab: BlockStorageLab;
  let volume: string;
  let snapshot: string;
  let backup: string;
  let type: string;
  before(async () => {
    lab = await openBlockStorageLab();
    const own = { project_id: lab.projects.one, user_id: newId(), name: null, description: null, operation: null };
    const times = { metadata: '{}', size_gib: 1, updated_at: new Date() } as const;
    ({ id: volume } = await lab.addVolume(lab.projects.one));
    const about = { ...own, ...times, volume_id: volume as never };
    ({ id: snapshot } = await insertSnapshot(lab.db, { ...about, id: newId(), status: 'available' } as never));
    const nothing = { snapshot_id: null, parent_id: null, container: null, fail_reason: null, volume_type_id: null };
    const more = { ...nothing, availability_zone: 'nova', secret_id: null, restored_volume_id: null };
    ({ id: backup } = await insertBackup(lab.db, { ...about, ...more, id: newId(), status: 'available' } as never));
    ({ id: type } = await lab.addType());
  });
  after(() => lab[Symbol.asyncDispose]());

  type Asked = readonly [method: 'POST' | 'PUT', path: string, body: (large: string) => object];
  /** What takes one: by the admin, who may say all of it. `LARGE` stands at each place in turn. */
  const asked = (): readonly Asked[] => [
    ['POST', '/volumes', (name) => ({ volume: { size: 1, name } })],
    ['POST', '/volumes', (description) => ({ volume: { size: 1, description } })],
    ['POST', '/volumes', (value) => ({ volume: { size: 1, metadata: { a: value } } })],
    ['POST', '/volumes', (key) => ({ volume: { size: 1, metadata: { [key]: 'a' } } })],
    ['POST', '/volumes', (availability_zone) => ({ volume: { size: 1, availability_zone } })],
    ['PUT', `/volumes/${volume}`, (name) => ({ volume: { name } })],
    ['PUT', `/volumes/${volume}`, (description) => ({ volume: { description } })],
    ['PUT', `/volumes/${volume}`, (value) => ({ volume: { metadata: { a: value } } })],
    ['POST', `/volumes/${volume}/metadata`, (value) => ({ metadata: { a: value } })],
    ['PUT', `/volumes/${volume}/metadata`, (key) => ({ metadata: { [key]: 'a' } })],
    ['PUT', `/volumes/${volume}/metadata/a`, (value) => ({ meta: { a: value } })],
    ['POST', `/volumes/${volume}/action`, (value) => ({ 'os-set_image_metadata': { metadata: { a: value } } })],
    ['POST', `/volumes/${volume}/action`, (image_name) => ({ 'os-volume_upload_image': { image_name } })],
    ['POST', `/volumes/${volume}/action`, (new_type) => ({ 'os-retype': { new_type } })],
    ['POST', `/volumes/${volume}/action`, (host) => ({ 'os-migrate_volume': { host } })],
    ['POST', '/snapshots', (name) => ({ snapshot: { volume_id: volume, name } })],
    ['POST', '/snapshots', (description) => ({ snapshot: { volume_id: volume, description } })],
    ['POST', '/snapshots', (value) => ({ snapshot: { volume_id: volume, metadata: { a: value } } })],
    ['PUT', `/snapshots/${snapshot}`, (name) => ({ snapshot: { name } })],
    ['PUT', `/snapshots/${snapshot}`, (description) => ({ snapshot: { description } })],
    ['POST', `/snapshots/${snapshot}/metadata`, (value) => ({ metadata: { a: value } })],
    ['POST', '/types', (name) => ({ volume_type: { name } })],
    ['POST', '/types', (description) => ({ volume_type: { name: 'x', description } })],
    ['POST', '/types', (value) => ({ volume_type: { name: 'x', extra_specs: { a: value } } })],
    ['PUT', `/types/${type}`, (name) => ({ volume_type: { name } })],
    ['PUT', `/types/${type}`, (description) => ({ volume_type: { description } })],
    ['POST', `/types/${type}/extra_specs`, (value) => ({ extra_specs: { a: value } })],
    [
      'POST',
      `/types/${type}/encryption`,
      (cipher) => ({ encryption: { provider: 'luks', control_location: 'front-end', cipher } }),
    ],
    ['POST', '/volume-transfers', (name) => ({ transfer: { volume_id: volume, name } })],
    ['POST', '/os-volume-transfer', (name) => ({ transfer: { volume_id: volume, name } })],
    ['POST', '/backups', (name) => ({ backup: { volume_id: volume, name } })],
    ['POST', '/backups', (description) => ({ backup: { volume_id: volume, description } })],
    ['POST', '/backups', (value) => ({ backup: { volume_id: volume, metadata: { a: value } } })],
    ['POST', '/backups', (container) => ({ backup: { volume_id: volume, container } })],
    ['PUT', `/backups/${backup}`, (name) => ({ backup: { name } })],
    ['PUT', `/backups/${backup}`, (description) => ({ backup: { description } })],
    ['PUT', `/backups/${backup}`, (value) => ({ backup: { metadata: { a: value } } })],
    ['POST', `/backups/${backup}/restore`, (name) => ({ restore: { name } })],
  ];

  it('is refused with 400 and a short word, and changes nothing', async () => {
    const tables = ['volumes', 'snapshots', 'backups', 'volume_types', 'volume_transfers'] as const;
    const rows = async () =>
      JSON.stringify(await Promise.all(tables.map((table) => lab.db.selectFrom(table).selectAll().execute())));
    const before = await rows();
    for (const [method, path, body] of asked()) {
      const { status, body: answer } = await lab.call(method, path, {
        as: 'admin',
        version: '3.70',
        body: body(LARGE),
      });
      const told = `${method} ${path} ${JSON.stringify(body('…'))}: ${status} ${JSON.stringify(answer).slice(0, 300)}`;
      assert.equal(status, 400, told);
      assert.equal(answer.badRequest?.code, 400, told);
      const { message } = answer.badRequest;
      assert.ok(message.length < 1000, told);
      assert.match(message, /more than \d+ characters|properties \('n+…'\)/, told);
    }
    assert.equal(await rows(), before);
  });
});
