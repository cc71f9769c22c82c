import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import type { Answer } from '#cli/cloud/client.ts';
import { MIB } from '#core/sizes.ts';
import { findStrays } from '#test/support/strays.ts';
import { VolumesAndServers } from '#test/support/volumes-and-servers.ts';

/*
 * Two requests at once that exclude each other: exactly one wins, the other is told why not (400, or 404 where
 * what it was about is gone); the volume, if it is still there, opens and holds what it held, and nothing is left over.
 */

const isWhole = process.env.NIGHTLATCH_TEST_DEPTH === 'all';
const BYTE = 0x4d;

describe('two requests at once that exclude each other', { timeout: 1_800_000 }, () => {
  let lab: VolumesAndServers;
  let server: string;
  let image: string;
  before(async () => {
    lab = await VolumesAndServers.open({
      imagesType: 'qcow2',
      shutdownTimeout: 0,
      backends: { files: 'qcow2', more: 'qcow2' },
    });
    await lab.addEncryptedType('secret');
    await lab.addEncryptedType('elsewhere', { volume_backend_name: 'more' });
    const quota_set = { volumes: -1, gigabytes: -1, snapshots: -1, backups: -1, backup_gigabytes: -1 };
    await lab.must('PUT', `/os-quota-sets/${lab.projectId}`, { quota_set });
    image = await lab.servers.addBootImage();
    const flavor = await lab.servers.addFlavor({}, { ephemeral: 0, swap: 0 });
    server = await lab.servers.create(flavor, image);
    // A guest that is off lets volumes go at once.
    await lab.servers.cloud.act(server, { 'os-stop': null });
    await lab.servers.cloud.waitForStatus(server, 'SHUTOFF');
  });
  after(() => lab[Symbol.asyncDispose]());

  type Ask = (volume: string) => Promise<Answer>;
  const act =
    (body: object): Ask =>
    (volume) =>
      lab.ask('POST', `/volumes/${volume}/action`, body);
  const attach: Ask = (volumeId) =>
    lab.servers.cloud.request('compute', 'POST', `/v2.1/servers/${server}/os-volume_attachments`, {
      body: { volumeAttachment: { volumeId } },
    });
  const remove: Ask = (volume) => lab.ask('DELETE', `/volumes/${volume}`);
  const offer: Ask = (volume_id) => lab.ask('POST', '/volume-transfers', { transfer: { volume_id } });
  const backUp: Ask = (volume_id) => lab.ask('POST', '/backups', { backup: { volume_id, name: 'another' } });
  const retype = act({ 'os-retype': { new_type: 'elsewhere', migration_policy: 'on-demand' } });
  const rekey = act({ 'nightlatch:rekey': null });
  const reencrypt = act({ 'nightlatch:rekey': { volume_key: true } });
  const extend = act({ 'os-extend': { new_size: 2 } });
  const restoreHeader = act({ 'nightlatch:restore_header': {} });
  const upload = act({ 'os-volume_upload_image': { image_name: 'made', disk_format: 'qcow2' } });
  const reimage: Ask = (volume) => act({ 'os-reimage': { image_id: image } })(volume);
  /** What a pair needs to be there, known before so that nobody is late: a snapshot, a backup, another backend. */
  let needed = '';
  const migrate: Ask = (volume) => act({ 'os-migrate_volume': { host: needed } })(volume);
  const revert: Ask = (volume) => act({ revert: { snapshot_id: needed } })(volume);
  const removeSnapshot: Ask = () => lab.ask('DELETE', `/snapshots/${needed}`);
  const removeBackup: Ask = () => lab.ask('DELETE', `/backups/${needed}`);
  const restore: Ask = (volume_id) => lab.ask('POST', `/backups/${needed}/restore`, { restore: { volume_id } });

  const createFrom =
    (source: string): Ask =>
    () =>
      lab.ask('POST', '/volumes', { volume: { size: 1, name: 'made', [source]: needed } });
  const backUpMore: Ask = (volume_id) =>
    lab.ask('POST', '/backups', { backup: { volume_id, name: 'another', incremental: true } });
  const backUpSnapshot: Ask = (volume_id) =>
    lab.ask('POST', '/backups', { backup: { volume_id, name: 'another', snapshot_id: needed } });
  let transfer = { id: '', auth_key: '' };
  const accept: Ask = () =>
    lab.ask('POST', `/volume-transfers/${transfer.id}/accept`, { accept: { auth_key: transfer.auth_key } });
  const withOffer = async (volume: string) => {
    const snapshot = await withSnapshot(volume);
    ({ transfer } = await lab.must('POST', '/volume-transfers', { transfer: { volume_id: volume } }));
    return snapshot;
  };

  const withSnapshot = (volume: string) => lab.addSnapshot(volume, { name: 'safe' });
  const withBackup = (volume: string) => lab.addBackup(volume, { name: 'safe' });
  const withBackend = async (volume: string) => {
    const from: string = (await lab.show('volume', volume))['os-vol-host-attr:host'];
    return from.endsWith('#files') ? from.replaceAll('files', 'more') : from.replaceAll('more', 'files');
  };
  const nothing = async () => '';
  const pairs: readonly (readonly [string, Ask, Ask, (volume: string) => Promise<string>])[] = [
    ['retype and attach', retype, attach, nothing],
    ['retype and delete', retype, remove, nothing],
    ['migrate and delete', migrate, remove, withBackend],
    ['migrate and extend', migrate, extend, withBackend],
    ['rekey and extend', rekey, extend, nothing],
    ['rekey and delete', rekey, remove, nothing],
    ['rekey --volume-key and attach', reencrypt, attach, nothing],
    ['rekey --volume-key and upload', reencrypt, upload, nothing],
    ['revert and snapshot delete', revert, removeSnapshot, withSnapshot],
    ['revert and extend', revert, extend, withSnapshot],
    ['upload and delete', upload, remove, nothing],
    ['upload and attach', upload, attach, nothing],
    ['header restore and attach', restoreHeader, attach, nothing],
    ['header restore and rekey', restoreHeader, rekey, nothing],
    ['backup delete and restore', removeBackup, restore, withBackup],
    ['backup delete and a volume of it', removeBackup, createFrom('backup_id'), withBackup],
    ['backup delete and another that builds upon it', removeBackup, backUpMore, withBackup],
    ['snapshot delete and its backup', removeSnapshot, backUpSnapshot, withSnapshot],
    ['restore and volume delete', restore, remove, withBackup],
    ['backup and extend', backUp, extend, nothing],
    ['reimage and attach', reimage, attach, nothing],
    ['transfer offer and attach', offer, attach, nothing],
  ];

  const won = ({ status }: Answer) => status < 300;

  for (const [index, [name, one, other, prepare]] of pairs.entries()) {
    test(name, async () => {
      for (const round of isWhole ? [0, 1, 2, 3] : [index]) {
        const volume = await lab.addVolume({ name: 'data', volume_type: 'secret' });
        await lab.fill(await lab.fileOf(volume), (await lab.secretOf(volume)) as never, BYTE);
        needed = await prepare(volume);
        const both = round % 2 === 0 ? [one, other] : [other, one];
        const answers = await Promise.all(both.map((ask) => ask(volume)));
        const told = answers.map(({ status, body }) => `${status} ${JSON.stringify(body)}`).join(' | ');
        assert.equal(answers.filter(won).length, 1, told);
        const lost = answers.findIndex((answer) => !won(answer));
        const loser = answers[lost];
        // To revert is a conflict, in Cinder's words.
        const codes = [400, 404, ...(both[lost] === revert ? [409] : [])];
        assert.ok(loser && codes.includes(loser.status), told);
        const [failure] = Object.values(loser.body) as { message: string }[];
        assert.match(failure?.message ?? '', /status must be|Invalid|could not be found/, told);
        await lab.settled();
        await expectWhole(volume, both[answers.findIndex(won)] === reimage);
        await clear();
      }
    });
  }

  test('copies, snapshots and larger sizes, asked for at once again and again: each is made or refused', async () => {
    const volume = await lab.addVolume({ name: 'data', volume_type: 'secret' });
    const copy = () => lab.ask('POST', '/volumes', { volume: { name: 'clone', source_volid: volume } });
    const snapshot = () => lab.ask('POST', '/snapshots', { snapshot: { volume_id: volume } });
    for (let size = 2; size < 6; size++) {
      const grow = () => lab.ask('POST', `/volumes/${volume}/action`, { 'os-extend': { new_size: size } });
      const answers = await Promise.all([copy(), grow(), snapshot(), grow(), copy(), backUp(volume)]);
      const told = answers.map(({ status, body }) => `${status} ${JSON.stringify(body)}`).join(' | ');
      assert.ok(
        answers.every((answer) => won(answer) || answer.status === 400),
        told,
      );
      assert.ok(answers.some(won), told);
      await lab.settled();
    }
    assert.deepEqual(await findStrays(lab.servers.service), []);
    await clear();
  });

  test('a snapshot is deleted while its volume is accepted: before that, or not at all', async () => {
    for (const _ of isWhole ? [0, 1, 2, 3] : [0]) {
      const volume = await lab.addVolume({ name: 'data', volume_type: 'secret' });
      await lab.fill(await lab.fileOf(volume), (await lab.secretOf(volume)) as never, BYTE);
      needed = await withOffer(volume);
      const answers = await Promise.all([removeSnapshot(volume), accept(volume)]);
      assert.ok(answers.some(won) && answers.every((answer) => won(answer) || answer.status === 400));
      await lab.settled();
      await expectWhole(volume, false);
      await clear();
    }
  });

  test('a volume is given away while it and its snapshot are copied: all are whole, each with a key of its own', async () => {
    const volume = await lab.addVolume({ name: 'data', volume_type: 'secret' });
    await lab.fill(await lab.fileOf(volume), (await lab.secretOf(volume)) as never, BYTE, 32 * MIB);
    needed = await withSnapshot(volume);
    const clones = [{ source_volid: volume }, { snapshot_id: needed }, { snapshot_id: needed }];
    const made = await Promise.all(
      clones.map((source) => lab.must('POST', '/volumes', { volume: { name: 'clone', ...source } })),
    );
    ({ transfer } = await lab.must('POST', '/volume-transfers', { transfer: { volume_id: volume } }));
    assert.equal((await accept(volume)).status, 202);
    for (const { volume: clone } of made) await lab.reach('volume', clone.id, 'available');
    const all = [volume, needed, ...made.map((each) => each.volume.id as string)];
    for (const id of all) {
      const [secret, file] = [(await lab.secretOf(id)) as never, await lab.fileOf(id)];
      assert.equal(await lab.holds(file, secret, BYTE), true);
    }
    assert.equal(new Set(await Promise.all(all.map((id) => lab.secretOf(id)))).size, all.length);
    assert.deepEqual(await findStrays(lab.servers.service), []);
    await clear();
  });

  async function expectWhole(volume: string, isOther: boolean): Promise<void> {
    const { status, body } = await lab.ask('GET', `/volumes/${volume}`);
    if (status === 404) return assert.deepEqual(await findStrays(lab.servers.service), []);
    assert.match(body.volume.status, /^(available|in-use|awaiting-transfer)$/);
    const [secret, file] = [(await lab.secretOf(volume)) as never, await lab.fileOf(volume)];
    assert.equal(await lab.opens(secret, file), true);
    if (!isOther) assert.equal(await lab.holds(file, secret, BYTE), true, 'it does not hold what it held');
    assert.deepEqual(await findStrays(lab.servers.service), []);
    if (body.volume.status === 'in-use') await lab.detach(server, volume);
  }

  async function clear(): Promise<void> {
    const { cloud } = lab.servers;
    for (const { id } of (await lab.must('GET', '/volume-transfers')).transfers) {
      await lab.must('DELETE', `/volume-transfers/${id}`);
    }
    for (const { id } of (await cloud.expect('image', 'GET', '/v2/images?name=made')).images) {
      await cloud.expect('image', 'DELETE', `/v2/images/${id}`);
    }
    for (const kind of ['backup', 'snapshot', 'volume'] as const) {
      for (const { id } of (await lab.must('GET', `/${kind}s`))[`${kind}s`]) {
        if (kind !== 'backup') await lab.delete(kind, id);
        else if ((await lab.show(kind, id)).status !== 'deleting') await lab.delete(kind, id);
        else await lab.reach(kind, id, 'gone');
      }
    }
    assert.equal(await lab.countSecrets(), 0);
  }
});
