import assert from 'node:assert/strict';
import { mkdir, open, readdir, rename, rmdir, stat, truncate } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import type { Answer } from '#cli/cloud/client.ts';
import { command } from '#test/support/command.ts';
import type { EncryptedMedium } from '#test/support/encrypted-medium.ts';
import { accessTo, watch } from '#test/support/pool.ts';
import { findStrays } from '#test/support/strays.ts';
import { isOnLogicalVolumes } from '#test/support/volume-backends.ts';
import { VolumesAndServers } from '#test/support/volumes-and-servers.ts';

/** Two requests at once on one volume: exactly one wins, the other gets the documented error, and nothing is left over. */
describe('of two requests at once on one volume', { timeout: isOnLogicalVolumes ? 7_200_000 : 600_000 }, () => {
  let lab: VolumesAndServers;
  let server: string;
  before(async () => {
    lab = await VolumesAndServers.open({
      imagesType: 'qcow2',
      shutdownTimeout: 0,
      backends: { files: 'raw', layered: 'qcow2' },
    });
    await lab.addEncryptedType('secret', { volume_backend_name: 'files' });
    const flavor = await lab.servers.addFlavor({ 'hw:ephemeral_encryption': 'true' });
    server = await lab.servers.create(flavor, await lab.servers.addBootImage());
    // A guest that is off lets volumes go at once.
    await lab.servers.cloud.act(server, { 'os-stop': null });
    await lab.servers.cloud.waitForStatus(server, 'SHUTOFF');
  });
  after(() => lab[Symbol.asyncDispose]());

  const fresh = () => lab.addVolume({ name: 'data', volume_type: 'secret' });
  const attach = (volumeId: string) =>
    lab.servers.cloud.request('compute', 'POST', `/v2.1/servers/${server}/os-volume_attachments`, {
      body: { volumeAttachment: { volumeId } },
    });
  const won = ({ status }: Answer) => status < 300;
  const statuses = (answers: readonly Answer[]) => answers.map(({ status }) => status);

  test('delete and attach: it is gone, or in use', async () => {
    const volume = await fresh();
    const answers = await Promise.all([lab.ask('DELETE', `/volumes/${volume}`), attach(volume)]);
    const [deleted, attached] = answers;
    assert.equal(answers.filter(won).length, 1, `${statuses(answers)}`);
    assert.ok(answers.filter((answer) => !won(answer)).every(({ status }) => status === 400 || status === 404));
    await lab.reach('volume', volume, deleted && won(deleted) ? 'gone' : 'in-use');
    assert.deepEqual(await findStrays(lab.servers.service), []);
    if (attached && won(attached)) {
      await lab.detach(server, volume);
      await lab.delete('volume', volume);
    }
  });

  test('two attachments: it is attached once', async () => {
    const volume = await fresh();
    const answers = await Promise.all([attach(volume), attach(volume)]);
    assert.deepEqual(statuses(answers).toSorted(), [200, 400]);
    await lab.reach('volume', volume, 'in-use');
    assert.deepEqual(await findStrays(lab.servers.service), []);
    await lab.detach(server, volume);
    await lab.delete('volume', volume);
  });

  test('extend and extend: it has one of the sizes', async () => {
    const volume = await fresh();
    const extend = (new_size: number) => lab.ask('POST', `/volumes/${volume}/action`, { 'os-extend': { new_size } });
    const answers = await Promise.all([extend(2), extend(3)]);
    assert.deepEqual(statuses(answers).toSorted(), [202, 400]);
    await lab.reach('volume', volume, 'available');
    assert.equal((await lab.show('volume', volume)).size, answers[0]?.status === 202 ? 2 : 3);
    assert.deepEqual(await findStrays(lab.servers.service), []);
    await lab.delete('volume', volume);
  });

  test('snapshot and extend: the snapshot is whole, of the size that the volume had', async () => {
    const volume = await fresh();
    const [snapshot, extended] = await Promise.all([
      lab.ask('POST', '/snapshots', { snapshot: { volume_id: volume, name: 'then' } }),
      lab.ask('POST', `/volumes/${volume}/action`, { 'os-extend': { new_size: 2 } }),
    ]);
    assert.equal(extended.status, 202);
    await lab.reach('volume', volume, 'available');
    if (won(snapshot)) {
      await lab.reach('snapshot', snapshot.body.snapshot.id, 'available');
      assert.equal((await lab.show('snapshot', snapshot.body.snapshot.id)).size, 1);
      assert.deepEqual(await findStrays(lab.servers.service), []);
      await lab.delete('snapshot', snapshot.body.snapshot.id);
    } else assert.equal(snapshot.status, 400);
    await lab.delete('volume', volume);
  });

  test('two clones, and a deletion: both clones are whole and have keys of their own, whatever becomes of the source', async () => {
    const volume = await fresh();
    const clone = () => lab.ask('POST', '/volumes', { volume: { name: 'clone', source_volid: volume } });
    const [one, other, deleted] = await Promise.all([clone(), clone(), lab.ask('DELETE', `/volumes/${volume}`)]);
    const made = [one, other].filter(won).map(({ body }) => body.volume.id as string);
    for (const id of made) await lab.reach('volume', id, 'available');
    await lab.reach('volume', volume, won(deleted) ? 'gone' : 'available');
    for (const id of made)
      assert.equal(await lab.opens((await lab.secretOf(id)) as never, await lab.mediumOf(id)), true);
    const secrets = await Promise.all(made.map((id) => lab.secretOf(id)));
    assert.equal(new Set(secrets).size, made.length);
    assert.deepEqual(await findStrays(lab.servers.service), []);
    for (const id of made) await lab.delete('volume', id);
    if (!won(deleted)) await lab.delete('volume', volume);
  });

  test('accepting a transfer twice, withdrawing it and deleting the volume: one of them', async () => {
    const volume = await fresh();
    const { transfer } = await lab.must('POST', '/volume-transfers', { transfer: { volume_id: volume } });
    const accept = () =>
      lab.ask('POST', `/volume-transfers/${transfer.id}/accept`, { accept: { auth_key: transfer.auth_key } });
    const answers = await Promise.all([
      accept(),
      accept(),
      lab.ask('DELETE', `/volume-transfers/${transfer.id}`),
      lab.ask('DELETE', `/volumes/${volume}`),
    ]);
    const [first, second, withdrawn, deleted] = answers;
    assert.equal(
      [first, second, withdrawn].filter((answer) => answer && won(answer)).length,
      1,
      `${statuses(answers)}`,
    );
    await lab.reach('volume', volume, deleted && won(deleted) ? 'gone' : 'available');
    assert.deepEqual(await findStrays(lab.servers.service), []);
    if (!(deleted && won(deleted))) await lab.delete('volume', volume);
    assert.deepEqual(await findStrays(lab.servers.service), []);
  });

  test('two clones: both are made, one after the other, each with a key of its own', async () => {
    const volume = await fresh();
    const clone = () => lab.ask('POST', '/volumes', { volume: { name: 'clone', source_volid: volume } });
    const answers = await Promise.all([clone(), clone()]);
    assert.deepEqual(statuses(answers), [202, 202]);
    const made = answers.map(({ body }) => body.volume.id as string);
    for (const id of made) await lab.reach('volume', id, 'available');
    const secrets = new Set(await Promise.all([volume, ...made].map((id) => lab.secretOf(id))));
    assert.equal(secrets.size, 3);
    assert.deepEqual(await findStrays(lab.servers.service), []);
    for (const id of [...made, volume]) await lab.delete('volume', id);
  });

  test('accepting a transfer and deleting the volume: one of them', async () => {
    const volume = await fresh();
    const { transfer } = await lab.must('POST', '/volume-transfers', { transfer: { volume_id: volume } });
    const answers = await Promise.all([
      lab.ask('POST', `/volume-transfers/${transfer.id}/accept`, { accept: { auth_key: transfer.auth_key } }),
      lab.ask('DELETE', `/volumes/${volume}`),
    ]);
    const [accepted, deleted] = answers.map(won);
    assert.ok(accepted && !deleted, `a volume that is offered is not deleted: ${statuses(answers)}`);
    await lab.reach('volume', volume, 'available');
    await lab.delete('volume', volume);
    assert.deepEqual(await findStrays(lab.servers.service), []);
  });

  test('retype, rekey and attach: one of them begins', async () => {
    await lab.addEncryptedType('other');
    const volume = await fresh();
    const action = (body: object) => lab.ask('POST', `/volumes/${volume}/action`, body);
    const answers = await Promise.all([
      action({ 'os-retype': { new_type: 'other', migration_policy: 'on-demand' } }),
      action({ 'nightlatch:rekey': null }),
      attach(volume),
    ]);
    assert.equal(answers.filter(won).length, 1, `${statuses(answers)}`);
    assert.ok(answers.every((answer) => won(answer) || answer.status === 400));
    const isAttached = answers[2] && won(answers[2]);
    await lab.reach('volume', volume, isAttached ? 'in-use' : 'available');
    await lab.settled();
    assert.deepEqual(await findStrays(lab.servers.service), []);
    if (isAttached) await lab.detach(server, volume);
    await lab.delete('volume', volume);
  });

  test('restoring a header and starting the server that has the volume: neither disturbs the other', async () => {
    const volume = await fresh();
    await lab.attach(server, volume);
    const [restored] = await Promise.all([
      lab.ask('POST', `/volumes/${volume}/action`, { 'nightlatch:restore_header': {} }),
      lab.servers.cloud.act(server, { 'os-start': null }),
    ]);
    assert.ok([202, 409].includes(restored.status), `${restored.status}`);
    await lab.servers.cloud.waitForStatus(server, 'ACTIVE');
    await lab.reach('volume', volume, 'in-use');
    assert.deepEqual(await findStrays(lab.servers.service), []);
    await lab.servers.cloud.act(server, { 'os-stop': null });
    await lab.servers.cloud.waitForStatus(server, 'SHUTOFF');
    await lab.detach(server, volume);
    await lab.delete('volume', volume);
    assert.deepEqual(await findStrays(lab.servers.service), []);
  });

  // Every failing step is tried again for some seconds.
  if (process.env.NIGHTLATCH_TEST_DEPTH === 'all') {
    test('a copy that fails leaves no secret: clone, snapshot, backup, retype, and a restore from a damaged backup', async () => {
      const volume = await fresh();
      const backup = await lab.addBackup(volume, { name: 'safe' });
      const before = await lab.countSecrets();
      const medium = await putAway(await lab.fileOf(volume));
      const failing = [
        ['volume', await lab.must('POST', '/volumes', { volume: { name: 'clone', source_volid: volume } })],
        ['snapshot', await lab.must('POST', '/snapshots', { snapshot: { volume_id: volume } })],
      ] as const;
      for (const [kind, body] of failing) await assert.rejects(lab.reach(kind, body[kind].id, 'available'), /is error/);
      const failed = await lab.must('POST', '/backups', { backup: { volume_id: volume } });
      await assert.rejects(lab.reach('backup', failed.backup.id, 'available'), /is error/);
      await lab.addEncryptedType('moved', { volume_backend_name: 'layered' });
      const retype = { 'os-retype': { new_type: 'moved', migration_policy: 'on-demand' } };
      await lab.delete('snapshot', failing[1][1].snapshot.id);
      await lab.must('POST', `/volumes/${volume}/action`, retype);
      await lab.reach('volume', volume, 'available');
      assert.match((await lab.show('volume', volume))['os-vol-host-attr:host'], /#files$/);
      assert.equal(await lab.countSecrets(), before);
      await medium[Symbol.asyncDispose]();

      const folder = join(lab.servers.service.stateDirectory, 'backups', backup);
      const objects = await readdir(folder, { recursive: true, withFileTypes: true });
      const largest = await largestOf(
        objects.filter((each) => each.isFile()).map((each) => join(each.parentPath, each.name)),
      );
      await truncate(largest, 1);
      await lab.must('POST', `/backups/${backup}/restore`, { restore: { volume_id: volume } });
      await assert.rejects(lab.reach('volume', volume, 'available'), /is error_restoring/);
      assert.equal(await lab.countSecrets(), before);
      assert.equal(await lab.opens((await lab.secretOf(volume)) as never, await lab.fileOf(volume)), true);
      for (const [kind, id] of [
        ['volume', failing[0][1].volume.id],
        ['backup', failed.backup.id],
        ['backup', backup],
        ['volume', volume],
      ] as const)
        await lab.delete(kind, id);
      assert.deepEqual(await findStrays(lab.servers.service), []);
    });
  }

  test('a volume whose secret is gone, and one whose deletion failed half-way, can be deleted', async () => {
    const volume = await fresh();
    const secret = await lab.secretOf(volume);
    assert.ok(secret);
    await lab.servers.db.deleteFrom('secrets').where('id', '=', secret).execute();
    await lab.delete('volume', volume);
    assert.deepEqual(await findStrays(lab.servers.service), []);

    const stuck = await fresh();
    const held = await keepFromRemoval(await lab.fileOf(stuck));
    await lab.must('DELETE', `/volumes/${stuck}`);
    await assert.rejects(lab.reach('volume', stuck, 'gone'), /is error_deleting/);
    await held[Symbol.asyncDispose]();
    await lab.must('POST', `/volumes/${stuck}/action`, { 'os-reset_status': { status: 'error' } });
    await lab.delete('volume', stuck);
    assert.deepEqual(await findStrays(lab.servers.service), []);
  });

  test('what is refused leaves no secret: quota, size, an unknown type, a source that is not there', async () => {
    const before = await lab.countSecrets();
    const { volume_type: type } = await lab.must('POST', '/types', { volume_type: { name: 'odd' } });
    const encryption = { provider: 'luks', cipher: 'serpent-cbc-plain', key_size: 128, control_location: 'front-end' };
    await lab.must('POST', `/types/${type.id}/encryption`, { encryption });
    const create = (body: object) =>
      lab.ask('POST', '/volumes', { volume: { size: 1, volume_type: 'secret', ...body } });
    const nobody = '00000000-0000-4000-8000-000000000000';
    assert.equal((await create({ size: 100_000 })).status, 413);
    assert.equal((await create({ size: 0 })).status, 400);
    assert.equal((await create({ volume_type: 'none' })).status, 404);
    assert.equal((await create({ volume_type: 'odd' })).status, 400);
    assert.equal((await create({ source_volid: nobody })).status, 404);
    assert.equal((await create({ snapshot_id: nobody })).status, 404);
    assert.equal((await create({ name: 'x'.repeat(1024 * 1024) })).status, 400);
    const { volume_type: nowhere } = await lab.must('POST', '/types', {
      volume_type: { name: 'nowhere', extra_specs: { volume_backend_name: 'nowhere' } },
    });
    await lab.must('POST', `/types/${nowhere.id}/encryption`, {
      encryption: { ...encryption, cipher: 'aes-xts-plain64', key_size: 256 },
    });
    const failed = await lab.must('POST', '/volumes', { volume: { size: 1, volume_type: 'nowhere' } });
    await assert.rejects(lab.reach('volume', failed.volume.id, 'available'), /is error/);
    assert.equal(await lab.countSecrets(), before);
    await lab.delete('volume', failed.volume.id);
    assert.deepEqual(await findStrays(lab.servers.service), []);
  });
});

/** A medium is not where it was, until the scope ends. */
async function putAway({ path, rbd }: EncryptedMedium): Promise<AsyncDisposable> {
  const place = rbd ? `${rbd.pool}/${rbd.image}` : path;
  const away = `${place}.away`;
  const move = async (from: string, to: string) => {
    if (isOnLogicalVolumes) command('lvrename', [from, to]);
    else if (rbd) command('rbd', [...accessTo(rbd), 'mv', from, to]);
    else await rename(from, to);
  };
  await move(place, away);
  return { [Symbol.asyncDispose]: () => move(away, place) };
}

/** Nobody can remove a medium until the scope ends: a folder is in its place, or it is open. */
async function keepFromRemoval(held: EncryptedMedium): Promise<AsyncDisposable> {
  const { path, rbd } = held;
  if (isOnLogicalVolumes) return await open(path, 'r');
  if (rbd) return await watch(rbd);
  const medium = await putAway(held);
  await mkdir(path);
  return {
    async [Symbol.asyncDispose]() {
      await rmdir(path);
      await medium[Symbol.asyncDispose]();
    },
  };
}

async function largestOf(paths: readonly string[]): Promise<string> {
  const sized = await Promise.all(paths.map(async (path) => ({ path, size: (await stat(path)).size })));
  const [largest] = sized.toSorted((a, b) => b.size - a.size);
  assert.ok(largest);
  return largest.path;
}
