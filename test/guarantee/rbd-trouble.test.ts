import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import type { JsonObject } from '#cli/cloud/client.ts';
import { expectBooted } from '#test/support/boot-guest.ts';
import { CephCluster } from '#test/support/ceph-cluster.ts';
import { guestsOf } from '#test/support/destroy-state.ts';
import { imageInPool, imagesIn, poolOf, trashOf, usePool, watch } from '#test/support/pool.ts';
import { findStrays } from '#test/support/strays.ts';
import { VolumesAndServers } from '#test/support/volumes-and-servers.ts';
import { waitUntil } from '#test/support/wait.ts';

const BYTE = 0x5a;
/** Longer than the service waits for an answer of the cluster. */
const SILENCE_MS = 90_000;
const GIVEN_UP_MS = 600_000;
const READ_ONLY = ['mon', 'profile rbd', 'osd', 'profile rbd-read-only'];
const whole = process.env.NIGHTLATCH_TEST_DEPTH === 'all' ? test : () => {};

/** A real cluster whose daemons are stopped while something is done; what was asked for ends as it should, or clearly does not. */
describe('a Ceph cluster in trouble', { timeout: 1_800_000 }, () => {
  let cluster: CephCluster;
  let lab: VolumesAndServers;
  /** Of a boot sector, on a volume of its own; it has the volume `data`. */
  let server: string;
  let data: string;

  before(async () => {
    cluster = await CephCluster.start('volumes');
    usePool(cluster, 'volumes');
    lab = await VolumesAndServers.open({ imagesType: 'qcow2', shutdownTimeout: 0, backends: { pool: 'rbd' } });
    await lab.addEncryptedType('secret');
    const flavor = await lab.servers.addFlavor({}, { disk: 0, ephemeral: 0, swap: 0 });
    server = await lab.servers.create(flavor, await lab.servers.addBootImage());
    data = await lab.addVolume({ name: 'data', volume_type: 'secret' });
    await lab.fill(await lab.fileOf(data), await secretOf(data), BYTE);
    await lab.attach(server, data);
  });
  after(async () => {
    await lab?.[Symbol.asyncDispose]();
    await cluster?.[Symbol.asyncDispose]();
  });

  const act = async (action: JsonObject, status: string) => {
    await lab.servers.cloud.act(server, action);
    await lab.servers.cloud.waitForStatus(server, status);
  };
  const secretOf = async (owner: string) => {
    const secret = await lab.secretOf(owner);
    assert.ok(secret !== null, `${owner} has no secret`);
    return secret;
  };
  const isWhole = async (owner: string) => lab.holds(await lab.fileOf(owner), await secretOf(owner), BYTE);
  const tidy = async () => assert.deepEqual(await findStrays(lab.servers.service), []);
  const messageOf = async (owner: string): Promise<string> => {
    const { messages } = await lab.must('GET', `/messages?resource_uuid=${owner}`);
    return messages[0]?.user_message ?? '';
  };
  const volume = async (wanted: JsonObject): Promise<string> => {
    const { volume } = await lab.must('POST', '/volumes', { volume: { size: 1, volume_type: 'secret', ...wanted } });
    return volume.id;
  };
  const failed = async (id: string) => {
    const hasFailed = async () => (await lab.show('volume', id)).status === 'error';
    await waitUntil(`volume ${id} is in error`, hasFailed, 4 * SILENCE_MS);
  };

  test('the OSD does nothing for a while: a copy, and a rekeying, go on as soon as it does', async () => {
    const before = await secretOf(data);
    const clone = await cluster.without('osd', async () => {
      const id = await volume({ name: 'clone', source_volid: data });
      await lab.must('POST', `/volumes/${data}/action`, { 'nightlatch:rekey': null }).catch(() => {});
      await sleep(10_000);
      return id;
    });
    await lab.reach('volume', clone, 'available');
    await lab.settled();
    await lab.must('POST', `/volumes/${data}/action`, { 'nightlatch:rekey': null });
    await lab.settled();
    assert.notEqual(await secretOf(data), before);
    assert.ok((await isWhole(clone)) && (await isWhole(data)));
    await lab.delete('volume', clone);
    await tidy();
  });

  whole(
    'the OSD does nothing for so long that a creation ends in an error that says so; deleting it leaves nothing',
    async () => {
      const id = await cluster.without('osd', async () => {
        const asked = await volume({ name: 'lost' });
        // It is tried again for minutes; then what was begun is taken back.
        const isTakenBack = async () => /create-volume\.\S+\.undo failed/.test(await lab.servers.service.log());
        await waitUntil('nothing is tried any more', isTakenBack, GIVEN_UP_MS);
        return asked;
      });
      await failed(id);
      assert.match(await messageOf(id), /the cluster of .* did not answer within \d+ s/);
      await lab.delete('volume', id);
      await tidy();
    },
  );

  whole(
    'the OSD does nothing for so long while a volume is rekeyed: it opens with the key that it has then',
    async () => {
      await lab.settled();
      await cluster.without('osd', async () => {
        await lab.must('POST', `/volumes/${data}/action`, { 'nightlatch:rekey': null });
        await sleep(SILENCE_MS);
      });
      await lab.settled();
      assert.equal(await isWhole(data), true);
      assert.equal(await lab.opens(await secretOf(data), await lab.fileOf(data)), true);
      await tidy();
    },
  );

  test('no rights to write: a creation ends in an error that says so; deleting it later leaves nothing', async () => {
    const id = await cluster.withRights(READ_ONLY, async () => {
      const asked = await volume({ name: 'forbidden' });
      await failed(asked);
      return asked;
    });
    assert.match(await messageOf(id), /Operation not permitted/);
    await lab.delete('volume', id);
    await tidy();
  });

  whole('somebody else has an image open: deleting it says so, and works once they have gone', async () => {
    const id = await lab.addVolume({ name: 'watched', volume_type: 'secret' });
    const watcher = await watch(imageInPool(await lab.diskOf(id)));
    await lab.must('DELETE', `/volumes/${id}`);
    const hasFailed = async () => (await lab.show('volume', id)).status === 'error_deleting';
    await waitUntil('the deletion has failed', hasFailed, 2 * SILENCE_MS);
    await watcher[Symbol.asyncDispose]();
    assert.match(await lab.servers.service.log(), /is open \(.*the image is still open/);
    await lab.must('POST', `/volumes/${id}/action`, { 'os-reset_status': { status: 'error' } });
    await lab.delete('volume', id);
    await tidy();
  });

  test('a guest is killed: its lock on the image goes with it, the server starts again, and its volume is deleted', async () => {
    await act({ 'os-start': null }, 'ACTIVE').catch(() => {});
    await expectBooted(lab.servers.cloud, server);
    const [pid] = await guestsOf(lab.servers.service.stateDirectory);
    process.kill(Number(pid), 'SIGKILL');
    await lab.servers.cloud.waitForStatus(server, 'SHUTOFF');
    await act({ 'os-start': null }, 'ACTIVE');
    await expectBooted(lab.servers.cloud, server);
    for (const guest of await guestsOf(lab.servers.service.stateDirectory)) process.kill(guest, 'SIGKILL');
    await lab.servers.cloud.waitForStatus(server, 'SHUTOFF');
    await lab.detach(server, data);
    assert.equal(await isWhole(data), true);
    await tidy();
  });

  whole('the cluster is full: what is asked for waits, and goes on when there is room', async () => {
    const id = await cluster.whileFull('volumes', async () => {
      const asked = await volume({ name: 'no room' });
      await sleep(10_000);
      assert.equal((await lab.show('volume', asked)).status, 'creating');
      return asked;
    });
    await lab.reach('volume', id, 'available');
    await lab.delete('volume', id);
    await tidy();
  });

  whole('the monitor cannot be reached: a server is not started, and is started when it can', async () => {
    await lab.attach(server, data);
    await cluster.without('monitor', async () => {
      await lab.servers.cloud.act(server, { 'os-start': null });
      await sleep(10_000);
    });
    const settled = async () => (await lab.servers.cloud.server(server))['OS-EXT-STS:task_state'] === null;
    await waitUntil('the server is in a state', settled, 4 * SILENCE_MS);
    if ((await lab.servers.cloud.server(server)).status !== 'ACTIVE') await act({ 'os-start': null }, 'ACTIVE');
    await expectBooted(lab.servers.cloud, server);
    await tidy();
    await act({ 'os-stop': null }, 'SHUTOFF');
  });

  test('the monitor cannot be reached when the service starts: it says so and ends', async () => {
    await lab.servers.service.end('SIGTERM');
    await cluster.without('monitor', async () => {
      await assert.rejects(lab.servers.service.launch(), /the cluster of .*ceph.conf did not answer within \d+ s/);
    });
    await lab.servers.service.launch();
    lab.servers.cloud = await lab.servers.service.client();
    await tidy();
  });

  test('nothing is left in the pool', async () => {
    await lab.detach(server, data).catch(() => {});
    await lab.delete('volume', data);
    assert.deepEqual(imagesIn(poolOf(null)), []);
    assert.deepEqual(trashOf(poolOf(null)), []);
  });
});
