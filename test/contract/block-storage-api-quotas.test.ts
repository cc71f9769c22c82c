import assert from 'node:assert/strict';
import { after, before, beforeEach, describe, it } from 'node:test';
import { NightlatchError } from '#core/errors.ts';
import { newId, type ProjectId, type SnapshotId, type VolumeTypeId } from '#core/ids.ts';
import { defaultQuotas, type QuotaRequest } from '#core/volume-quota.ts';
import { insertSnapshot } from '#db/snapshots.ts';
import { checkQuota } from '#db/volume-quotas.ts';
import type { Volume } from '#db/volumes.ts';
import { type BlockStorageLab, openBlockStorageLab } from '#test/support/block-storage-lab.ts';

let lab: BlockStorageLab;
let one: ProjectId;
before(async () => {
  lab = await openBlockStorageLab();
  one = lab.projects.one;
});
after(() => lab[Symbol.asyncDispose]());
beforeEach(async () => {
  for (const table of ['snapshots', 'volumes', 'volume_quotas'] as const) await lab.db.deleteFrom(table).execute();
});

const set = (quota_set: object, project: string = one) => lab.admin('PUT', `/os-quota-sets/${project}`, { quota_set });
const quotas = async (query = '', project: string = one) =>
  (await lab.admin('GET', `/os-quota-sets/${project}${query}`)).body.quota_set;

async function addSnapshot(volume: Volume, sizeGib: number): Promise<void> {
  await insertSnapshot(lab.db, {
    id: newId<SnapshotId>(),
    volume_id: volume.id,
    project_id: volume.project_id,
    user_id: volume.user_id,
    name: null,
    description: null,
    size_gib: sizeGib,
    status: 'available',
    metadata: '{}',
    operation: null,
    updated_at: new Date(),
  });
}

describe('the quotas of a project', () => {
  it('are the defaults until they are set, and again once they are deleted', async () => {
    const shown = await quotas();
    for (const [resource, limit] of Object.entries(defaultQuotas)) assert.equal(shown[resource], limit);
    assert.equal(shown.volumes___DEFAULT__, -1);
    assert.equal(shown.id, one);
    const changed = await set({ volumes: 3, gigabytes: '20', tenant_id: one, id: one });
    assert.equal(changed.status, 200);
    assert.equal(Object.hasOwn(changed.body.quota_set, 'id'), false);
    const after = await quotas();
    assert.deepEqual([after.volumes, after.gigabytes, after.snapshots], [3, 20, 10]);
    assert.equal((await quotas('', lab.projects.two)).volumes, 10);
    assert.equal((await quotas('/defaults')).volumes, 10);
    assert.equal((await lab.admin('DELETE', `/os-quota-sets/${one}`)).status, 200);
    assert.equal((await quotas()).volumes, 10);
  });

  it('are shown to the project and the admin, and changed by the admin', async () => {
    const path = `/os-quota-sets/${one}`;
    assert.equal((await lab.call('GET', path)).status, 200);
    assert.equal((await lab.call('GET', path, { as: 'reader' })).status, 200);
    assert.equal((await lab.call('GET', path, { as: 'stranger' })).status, 403);
    assert.equal((await lab.call('GET', `${path}/defaults`, { as: 'stranger' })).status, 403);
    assert.equal((await lab.call('PUT', path, { body: { quota_set: { volumes: 99 } } })).status, 403);
    assert.equal((await lab.call('DELETE', path)).status, 403);
    assert.equal((await lab.call('GET', '/os-quota-class-sets/default')).status, 403);
    assert.equal((await quotas()).volumes, 10);
  });

  it('are refused when they name nothing, are no numbers, or are below what is there; then none is set', async () => {
    for (let i = 0; i < 3; i++) await lab.addVolume(one, { sizeGib: 5 });
    for (const quota_set of [
      {},
      { volumes: 20, colours: 3 },
      { volumes: 20, snapshots: -2 },
      { volumes: 20, snapshots: 'many' },
      { volumes: 20, snapshots: null },
      { volumes: 20, snapshots: 1.5 },
      { volumes: 20, snapshots: 2 ** 31 },
      { snapshots: 20, volumes: 2 },
      { snapshots: 20, gigabytes: 14 },
    ]) {
      assert.equal((await set(quota_set)).status, 400, JSON.stringify(quota_set));
    }
    assert.deepEqual([(await quotas()).volumes, (await quotas()).snapshots], [10, 10]);
    const low = await set({ volumes: 2 });
    const message =
      'Quota volumes limit must be equal or greater than existing resources. Current usage is 3 and the requested limit is 2.';
    assert.deepEqual(low.body, { badRequest: { code: 400, message } });
    assert.equal((await set({ volumes: -1, gigabytes: 15 })).status, 200);
  });

  it('are shown with what is there: all that is not deleted, snapshots as gigabytes too, each type by itself', async () => {
    const type = await lab.addType();
    const typed = await lab.addVolume(one, { sizeGib: 3, typeId: type.id });
    await lab.addVolume(one, { sizeGib: 4, status: 'error' });
    const gone = await lab.addVolume(one, { sizeGib: 100 });
    await lab.db.updateTable('volumes').set({ deleted_at: new Date() }).where('id', '=', gone.id).execute();
    await lab.addVolume(lab.projects.two, { sizeGib: 100 });
    await addSnapshot(typed, 2);
    const shown = await quotas('?usage=True');
    const inUse = (resource: string) => shown[resource].in_use;
    assert.deepEqual(['volumes', 'snapshots', 'gigabytes'].map(inUse), [2, 1, 9]);
    const ofType = ['volumes', 'snapshots', 'gigabytes'].map((resource) => inUse(`${resource}_${type.name}`));
    assert.deepEqual(ofType, [1, 1, 5]);
    assert.deepEqual(shown.volumes, { limit: 10, in_use: 2, reserved: 0 });
    const { limits } = (await lab.call('GET', '/limits')).body;
    assert.deepEqual(limits, {
      rate: [],
      absolute: {
        ...{ maxTotalVolumes: 10, maxTotalSnapshots: 10, maxTotalVolumeGigabytes: 1000 },
        ...{ maxTotalBackups: 10, maxTotalBackupGigabytes: 1000 },
        ...{ totalVolumesUsed: 2, totalSnapshotsUsed: 1, totalGigabytesUsed: 9 },
        ...{ totalBackupsUsed: 0, totalBackupGigabytesUsed: 0 },
      },
    });
    const asAdmin = (version: string) => lab.call('GET', `/limits?project_id=${one}`, { as: 'admin', version });
    assert.equal((await asAdmin('3.39')).body.limits.absolute.totalVolumesUsed, 2);
    assert.equal((await asAdmin('3.38')).body.limits.absolute.totalVolumesUsed, 0);
  });

  it('of a volume type go with its name, and go with it', async () => {
    const { id, name } = await lab.addType();
    assert.equal((await set({ [`volumes_${name}`]: 1 })).status, 200);
    await lab.admin('PUT', `/types/${id}`, { volume_type: { name: `${name}-new` } });
    const shown = await quotas();
    assert.deepEqual([shown[`volumes_${name}`], shown[`volumes_${name}-new`]], [undefined, 1]);
    await lab.admin('DELETE', `/types/${id}`);
    assert.equal((await quotas())[`volumes_${name}-new`], undefined);
    assert.equal((await set({ [`volumes_${name}-new`]: 1 })).status, 400);
  });
});

describe('the quota class default', () => {
  it('is what projects have that have no quotas of their own', async () => {
    await set({ snapshots: 4 });
    const body = { quota_class_set: { volumes: 5, snapshots: 6 } };
    const changed = await lab.admin('PUT', '/os-quota-class-sets/default', body);
    assert.deepEqual([changed.status, changed.body.quota_class_set.volumes], [200, 5]);
    const shown = await quotas();
    assert.deepEqual([shown.volumes, shown.snapshots], [5, 4]);
    assert.equal((await quotas('/defaults')).snapshots, 6);
    const other = await lab.admin('PUT', '/os-quota-class-sets/gold', { quota_class_set: { volumes: 50 } });
    assert.deepEqual([other.body.quota_class_set.volumes, other.body.quota_class_set.snapshots], [50, 6]);
    assert.equal((await lab.admin('GET', '/os-quota-class-sets/gold')).body.quota_class_set.id, 'gold');
    assert.equal((await quotas()).volumes, 5);
    const bad = await lab.admin('PUT', '/os-quota-class-sets/default', { quota_class_set: { colours: 1 } });
    assert.equal(bad.status, 400);
  });
});

/** What a project is told, and whether a volume of this size was made for it. */
async function take(request: QuotaRequest, projectId = one, typeId?: VolumeTypeId): Promise<string> {
  try {
    await lab.db.transaction().execute(async (tx) => {
      await checkQuota(tx, projectId, request);
      const { id, ...columns } = await lab.addVolume(lab.projects.two, { ...(typeId ? { typeId } : {}) });
      await tx
        .updateTable('volumes')
        .set({ project_id: projectId, size_gib: request.more.gigabytes ?? columns.size_gib })
        .where('id', '=', id)
        .execute();
    });
    return 'taken';
  } catch (error) {
    if (!(error instanceof NightlatchError)) throw error;
    assert.equal(error.status, 413);
    return error.message;
  }
}
const volume = (gigabytes: number, volumeType: string | null = null): QuotaRequest => {
  return { kind: 'volume', more: { volumes: 1, gigabytes }, volumeType, volumeGib: gigabytes };
};

describe('what is beyond a quota is refused in Cinder’s words', () => {
  it('by number, by size, by size of one volume, and of both the size is told', async () => {
    await set({ volumes: 2, gigabytes: 10, per_volume_gigabytes: 8, snapshots: 0 });
    assert.equal(await take(volume(9)), 'Requested volume size 9G is larger than maximum allowed limit 8G.');
    assert.equal(await take(volume(6)), 'taken');
    assert.equal(
      await take(volume(5)),
      'Requested volume or snapshot exceeds allowed gigabytes quota. Requested 5G, quota is 10G and 6G has been consumed.',
    );
    assert.equal(await take(volume(4)), 'taken');
    await set({ gigabytes: -1 });
    assert.equal(await take(volume(1)), "Maximum number of volumes allowed (2) exceeded for quota 'volumes'.");
    await set({ gigabytes: 10 });
    assert.match(await take(volume(1)), /exceeds allowed gigabytes quota/);
    assert.equal(
      await take({ kind: 'snapshot', more: { snapshots: 1, gigabytes: 0 }, volumeType: null }),
      'Maximum number of snapshots allowed (0) exceeded',
    );
    assert.equal(await take({ kind: 'volume', more: { gigabytes: -2 }, volumeType: null }), 'taken');
  });

  it('of a volume type, while other types have room', async () => {
    const { id, name } = await lab.addType();
    await set({ [`volumes_${name}`]: 1, [`gigabytes_${name}`]: 5 });
    assert.match(await take(volume(6, name)), new RegExp(`exceeds allowed gigabytes_${name} quota`));
    assert.equal(await take(volume(2, name), one, id), 'taken');
    assert.equal(
      await take(volume(2, name), one, id),
      `Maximum number of volumes allowed (1) exceeded for quota 'volumes_${name}'.`,
    );
    assert.equal(await take(volume(2)), 'taken');
  });

  it('of backups, with the words for backups', async () => {
    await set({ backups: 0, backup_gigabytes: 3 });
    const backup = (gib: number) =>
      take({ kind: 'backup', more: { backups: 1, backup_gigabytes: gib }, volumeType: null });
    assert.match(
      await backup(4),
      /^Requested backup exceeds allowed Backup gigabytes quota\. Requested 4G, quota is 3G and 0G/,
    );
    assert.equal(await backup(1), 'Maximum number of backups allowed (0) exceeded');
  });
});

describe('of many requests at once', () => {
  it('exactly as many pass as there is room for', async () => {
    await set({ volumes: 4 });
    const outcomes = await Promise.all(Array.from({ length: 12 }, () => take(volume(1))));
    assert.equal(outcomes.filter((outcome) => outcome === 'taken').length, 4);
    assert.equal((await quotas('?usage=true')).volumes.in_use, 4);
  });

  it('those of another project do not wait', async () => {
    await lab.db.transaction().execute(async (tx) => {
      await checkQuota(tx, one, volume(1));
      assert.equal(await take(volume(1), lab.projects.two), 'taken');
    });
  });
});
