import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { type DiskId, type ImageId, newId, type ServerId } from '#core/ids.ts';
import { GIB } from '#core/sizes.ts';
import { insertDisks } from '#db/disks.ts';
import { addImage, type ComputeLab, openComputeLab } from '#test/support/compute-lab.ts';

/** Rescue and unrescue as a client sees them. See Compute API "Rescue Server", "Unrescue Server". */

let lab: ComputeLab;
let image: ImageId;
let other: ImageId;

before(async () => {
  lab = await openComputeLab();
  image = await addImage(lab.db, lab.projects.one);
  other = await addImage(lab.db, lab.projects.one, { virtualSizeBytes: 3 * GIB });
  const flavor = { id: '1', name: 'small', ram: 512, vcpus: 1, disk: 2 };
  await lab.call('POST', '/flavors', { as: 'admin', body: { flavor } });
});
after(() => lab[Symbol.asyncDispose]());

/** An active server with an encrypted root disk. */
async function createActive(): Promise<string> {
  const server = { name: 'web', imageRef: image, flavorRef: '1', networks: 'none' };
  const { id } = (await lab.call('POST', '/servers', { version: '2.93', body: { server } })).body.server;
  const disk = { id: newId<DiskId>(), owner_id: id as ServerId, project_id: lab.projects.one, role: 'root' as const };
  const place = { storage: 'raw', encryption: 'luks', encrypted: true, image_id: image, host: null } as const;
  await insertDisks(lab.db, [{ ...disk, ...place, ordinal: 0, size_bytes: GIB, state: 'formatted', secret_id: null }]);
  await lab.operations.run(id);
  return id;
}
const act = (id: string, body: object) => lab.call('POST', `/servers/${id}/action`, { body });
const show = async (id: string) => (await lab.call('GET', `/servers/${id}`)).body.server;

describe('rescue', () => {
  it('answers 200 with a password, and unrescue 202', async () => {
    const id = await createActive();
    const answer = await act(id, { rescue: { adminPass: 'a word', rescue_image_ref: other } });
    assert.deepEqual([answer.status, answer.body], [200, { adminPass: 'a word' }]);
    assert.deepEqual(lab.operations.acts.at(-1)?.particulars, { image: { id: other, virtualSizeBytes: 3 * GIB } });
    const { status, 'OS-EXT-STS:task_state': task } = await show(id);
    assert.deepEqual([status, task], ['ACTIVE', 'rescuing']);
    await lab.operations.end(id, { vm_state: 'rescued', power_state: 'running' });
    assert.equal((await show(id)).status, 'RESCUE');
    for (const body of [{ rescue: null }, { 'os-stop': null }, { 'os-start': null }, { reboot: { type: 'HARD' } }]) {
      const refused = await act(id, body);
      assert.equal(refused.status, 409, JSON.stringify(body));
      assert.match(refused.body.conflictingRequest.message, /while it is in vm_state rescued$/);
    }
    assert.equal((await act(id, { unrescue: null })).status, 202);
    assert.equal((await show(id))['OS-EXT-STS:task_state'], 'unrescuing');
    await lab.operations.end(id, { vm_state: 'active', power_state: 'running' });
    assert.equal((await act(id, { unrescue: null })).status, 409);
  });

  it('takes the server’s own image when none is named, from active, stopped and error', async () => {
    const id = await createActive();
    for (const state of ['active', 'stopped', 'error'] as const) {
      await lab.db
        .updateTable('servers')
        .set({ vm_state: state })
        .where('id', '=', id as ServerId)
        .execute();
      for (const rescue of [null, {}]) {
        const answer = await act(id, { rescue });
        assert.equal(answer.status, 200, JSON.stringify(answer.body));
        assert.ok(answer.body.adminPass.length >= 12);
        assert.equal(lab.operations.acts.at(-1)?.particulars?.image?.id, image);
        await lab.operations.end(id, { vm_state: state });
      }
    }
  });

  it('is refused for an image that cannot be had, or does not fit, or is encrypted otherwise', async () => {
    const id = await createActive();
    const facts = (properties: Record<string, string>) => addImage(lab.db, lab.projects.one, { properties });
    const wrong: [string, RegExp][] = [
      [newId(), /Can not find requested image/],
      [await addImage(lab.db, lab.projects.two), /Can not find requested image/],
      [await addImage(lab.db, lab.projects.one, { status: 'queued' }), /is not active/],
      [await addImage(lab.db, lab.projects.one, { minRamMib: 513 }), /memory is too small/],
      [
        await facts({ hw_ephemeral_encryption: 'false' }),
        /ask for other encryption, and the instance is encrypted with luks/,
      ],
      [await facts({ hw_ephemeral_encryption_format: 'luksv2' }), /ask for other encryption/],
      ['not an id', /field\/attribute rescue/],
    ];
    for (const [rescue_image_ref, message] of wrong) {
      const { status, body } = await act(id, { rescue: { rescue_image_ref } });
      assert.equal(status, 400, rescue_image_ref);
      assert.match(body.badRequest.message, message);
    }
    const agrees = await facts({ hw_ephemeral_encryption: 'yes', hw_ephemeral_encryption_format: 'luks' });
    assert.equal((await act(id, { rescue: { rescue_image_ref: agrees } })).status, 200);
  });

  it('is refused for a server that never ran, or is locked', async () => {
    const server = { name: 'new', imageRef: image, flavorRef: '1', networks: 'none' };
    const { id } = (await lab.call('POST', '/servers', { version: '2.93', body: { server } })).body.server;
    await lab.operations.end(id, { vm_state: 'error', power_state: 'nostate' });
    const never = await act(id, { rescue: null });
    assert.equal(never.body.conflictingRequest.message, `Cannot 'rescue' instance ${id} which has never been active`);
    const locked = await createActive();
    await act(locked, { lock: null });
    for (const body of [{ rescue: null }, { unrescue: null }]) {
      assert.match((await act(locked, body)).body.conflictingRequest.message, /is locked/);
    }
  });
});
