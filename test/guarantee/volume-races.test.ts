import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import type { Answer } from '#cli/cloud/client.ts';
import { findStrays } from '#test/support/strays.ts';
import { VolumesAndServers } from '#test/support/volumes-and-servers.ts';

/** Two requests at once on one volume: exactly one wins, the other gets the documented error, and nothing is left over. */
describe('of two requests at once on one volume', { timeout: 600_000 }, () => {
  let lab: VolumesAndServers;
  let server: string;
  before(async () => {
    lab = await VolumesAndServers.open({ imagesType: 'qcow2', shutdownTimeout: 0 });
    await lab.addEncryptedType('secret');
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
