import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import type { JsonObject } from '#cli/cloud/client.ts';
import { CrashLab } from '#test/support/crash-lab.ts';

/*
 * "Crash anywhere", of servers that boot from volumes made for them: killed at any point, the server ends as asked, and its
 * volumes with it: those that were to go with it are gone, the others available. No key is left over.
 */

const isWhole = process.env.NIGHTLATCH_TEST_DEPTH === 'all';

const createPoints = [
  'operations.recorded',
  'create-server.await-volumes.before',
  'create-volume.place.after',
  'create-volume.finish.before',
  'create-volume.finish.after',
  'steps.create-volume-disk.made',
  'create-server.await-volumes.after',
  'create-server.place.after',
  'create-server.attach-volumes.before',
  'create-server.attach-volumes.after',
  'agent.start-server.started',
  'create-server.finish.before',
];
const deletePoints = [
  'agent.stop-server.ended',
  'delete-server.let-go.before',
  'steps.let-volumes-go.recorded',
  'delete-server.let-go.after',
  'delete-server.forget.before',
  'delete-server.forget.after',
  // Of the volumes that go with it.
  'delete-volume.wait.before',
  'delete-volume.destroy-disk.before',
  'agent.destroy-disk.backups-destroyed',
  'agent.destroy-disk.header-destroyed',
  'steps.destroy-volume-disk.removed',
  'keys.destroy-key.destroyed',
  'delete-volume.destroy-disk.after',
  'delete-volume.finish.before',
  'delete-volume.finish.after',
];
const shelvePoints = ['shelve-volume-server.note.after', 'shelve-volume-server.offload.after'];
const coveringPoints = new Set(['create-server.attach-volumes.after', 'steps.let-volumes-go.recorded']);
const covered = (points: readonly string[]) => points.filter((point) => isWhole || coveringPoints.has(point));

describe('a crash at any point of a server that boots from a volume', { timeout: 7_200_000 }, () => {
  let lab: CrashLab;
  let image: string;

  before(async () => {
    lab = await CrashLab.open();
    image = (await lab.cloud.expect('image', 'GET', '/v2/images?name=boot')).images[0].id;
    const { volume_type: type } = await ask('POST', '/types', { volume_type: { name: 'secret' } });
    const encryption = { provider: 'luks', cipher: 'aes-xts-plain64', key_size: 256, control_location: 'front-end' };
    await ask('POST', `/types/${type.id}/encryption`, { encryption });
  });
  after(() => lab[Symbol.asyncDispose]());

  const ask = async (method: string, path: string, body?: JsonObject): Promise<JsonObject> => {
    const headers = { 'x-subject-token': await lab.cloud.token() };
    const { token } = await lab.cloud.expect('identity', 'GET', '/v3/auth/tokens', { headers });
    return await lab.cloud.expect(
      'volume',
      method,
      `/v3/${token.project.id}${path}`,
      body === undefined ? {} : { body },
    );
  };
  const volumes = async (): Promise<JsonObject[]> => (await ask('GET', '/volumes/detail')).volumes;
  const countVolumes = async () => (await volumes()).length;

  /** An encrypted one to boot from and another, which go with their server, and one that stays. */
  const create = async (): Promise<string> => {
    const made = { destination_type: 'volume', volume_size: 1, volume_type: 'secret' };
    const devices = [
      { ...made, source_type: 'image', uuid: image, boot_index: 0, delete_on_termination: true },
      { ...made, source_type: 'blank', boot_index: -1 },
      { ...made, source_type: 'blank', boot_index: -1, delete_on_termination: true },
    ];
    const server = { name: 'boots', flavorRef: 'tiny', networks: 'none', block_device_mapping_v2: devices };
    const headers = { 'openstack-api-version': 'compute 2.67' };
    return (await lab.cloud.expect('compute', 'POST', '/v2.1/servers', { body: { server }, headers })).server.id;
  };

  const takeUp = async (): Promise<string> => {
    const id = await create();
    await lab.cloud.waitForStatus(id, 'ACTIVE');
    await lab.expectBooted(id);
    return id;
  };

  const expectVolumesLeft = async (): Promise<void> => {
    for (let i = 0; (await countVolumes()) > 1 && i < 100; i++) await sleep(100);
    const left = await volumes();
    assert.deepEqual(
      left.map(({ status, attachments, bootable }) => [status, attachments, bootable]),
      [['available', [], 'false']],
    );
    await lab.expectNoStrays();
    for (const { id } of left) await ask('DELETE', `/volumes/${id}`);
    for (let i = 0; (await countVolumes()) > 0 && i < 100; i++) await sleep(100);
    assert.equal(await countVolumes(), 0);
    await lab.expectNoStrays();
  };

  const remove = async (id: string): Promise<void> => {
    await lab.cloud.expect('compute', 'DELETE', `/v2.1/servers/${id}`);
    await lab.cloud.waitUntilGone(id);
    await expectVolumesLeft();
  };

  for (const point of covered(createPoints)) {
    test(`create-server, killed at ${point}: it boots from its volume`, async () => {
      await lab.crashAt(point, create);
      const id = (await lab.cloud.expect('compute', 'GET', '/v2.1/servers')).servers[0]?.id;
      assert.ok(id, 'the server was lost');
      await lab.cloud.waitForStatus(id, 'ACTIVE');
      assert.deepEqual(
        (await volumes()).map(({ status }) => status),
        ['in-use', 'in-use', 'in-use'],
      );
      await lab.expectNoStrays();
      await lab.expectBooted(id);
      await remove(id);
    });
  }

  for (const point of covered(deletePoints)) {
    test(`delete-server, killed at ${point}: of its volumes that is gone that was to go`, async () => {
      const id = await takeUp();
      await lab.crashAt(point, () => lab.cloud.expect('compute', 'DELETE', `/v2.1/servers/${id}`));
      await lab.cloud.waitUntilGone(id);
      await expectVolumesLeft();
    });
  }

  for (const point of covered(shelvePoints)) {
    test(`shelve-volume-server, killed at ${point}: it comes back with its volumes`, async () => {
      const id = await takeUp();
      await lab.crashAt(point, () => lab.cloud.act(id, { shelve: null }));
      await lab.cloud.waitForStatus(id, 'SHELVED_OFFLOADED');
      assert.deepEqual(
        (await volumes()).map(({ status }) => status),
        ['in-use', 'in-use', 'in-use'],
      );
      await lab.expectNoStrays();
      await lab.cloud.act(id, { unshelve: null });
      await lab.cloud.waitForStatus(id, 'ACTIVE');
      await lab.expectBooted(id);
      await remove(id);
    });
  }
});
