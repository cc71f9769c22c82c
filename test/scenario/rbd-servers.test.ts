import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import type { CloudClient } from '#cli/cloud/client.ts';
import { bootSector } from '#test/support/boot-sector.ts';
import { CephCluster } from '#test/support/ceph-cluster.ts';
import { CrashLab } from '#test/support/crash-lab.ts';

const POOL = 'vms';
const whole = process.env.NIGHTLATCH_TEST_DEPTH === 'covering' ? () => {} : test;

describe('servers whose disks are images in a pool', { timeout: 600_000 }, () => {
  let cluster: CephCluster;
  let lab: CrashLab;
  let id: string;
  const images = () =>
    cluster
      .rbd('ls', POOL)
      .split('\n')
      .filter((name) => name !== '');
  const act = async (cloud: CloudClient, action: object, status: string) => {
    await cloud.act(id, action as never);
    await cloud.waitForStatus(id, status);
  };

  before(async () => {
    cluster = await CephCluster.start(POOL);
    const place = [
      `images_rbd_pool = "${POOL}"`,
      `images_rbd_ceph_conf = "${cluster.conf}"`,
      `rbd_user = "${cluster.user}"`,
    ];
    lab = await CrashLab.open({ imagesType: 'rbd', more: place.join('\n') });
  });
  after(async () => {
    await lab?.[Symbol.asyncDispose]();
    await cluster?.[Symbol.asyncDispose]();
  });

  test('boot from encrypted images, each with a key of its own', async () => {
    id = await lab.create('in the pool');
    await lab.cloud.waitForStatus(id, 'ACTIVE');
    await lab.expectBooted(id);
    assert.deepEqual(images().sort(), [`${id}_disk`, `${id}_disk.config`, `${id}_disk.swap`]);
    for (const name of images()) {
      const bytes = cluster.bytesOf(`${POOL}/${name}`);
      assert.equal(bytes.toString('latin1', 0, 4), 'LUKS', name);
      assert.equal(bytes.includes(bootSector()), false);
    }
    await lab.expectNoStrays();
  });

  test('stop, start: no one has the image open meanwhile', async () => {
    await act(lab.cloud, { 'os-stop': null }, 'SHUTOFF');
    assert.match(cluster.rbd('status', `${POOL}/${id}_disk`), /Watchers: none/);
    await act(lab.cloud, { 'os-start': null }, 'ACTIVE');
    await lab.expectBooted(id);
  });

  test('suspend, resume: the memory is an encrypted image too, and gone afterwards', async () => {
    await act(lab.cloud, { suspend: null }, 'SUSPENDED');
    assert.ok(images().includes(`${id}_memory`));
    assert.equal(cluster.bytesOf(`${POOL}/${id}_memory`).toString('latin1', 0, 4), 'LUKS');
    await act(lab.cloud, { resume: null }, 'ACTIVE');
    assert.equal(images().includes(`${id}_memory`), false);
    await lab.expectNoStrays();
  });

  test('a service that is killed in the middle of a suspend goes on with it', async () => {
    await lab.crashAt('agent.suspend-server.saved', () => lab.cloud.act(id, { suspend: null }));
    await lab.cloud.waitForStatus(id, 'SUSPENDED');
    await act(lab.cloud, { resume: null }, 'ACTIVE');
    await lab.expectNoStrays();
  });

  whole('rescue, unrescue', async () => {
    await act(lab.cloud, { rescue: null }, 'RESCUE');
    await act(lab.cloud, { unrescue: null }, 'ACTIVE');
    await lab.expectBooted(id);
  });

  whole('an image of it, while it runs, is encrypted with a key of its own, and boots', async () => {
    await lab.cloud.act(id, { createImage: { name: 'copy' } });
    await lab.cloud.waitForStatus(id, 'ACTIVE');
    const [image] = (await lab.cloud.expect('image', 'GET', '/v2/images?name=copy')).images;
    assert.equal(image?.os_encrypt_format, 'LUKSv1');
    const copy = await lab.create('from the copy', image.id);
    await lab.cloud.waitForStatus(copy, 'ACTIVE');
    await lab.expectBooted(copy);
    await lab.remove(copy);
    await lab.cloud.expect('image', 'DELETE', `/v2/images/${image.id}`);
  });

  whole('resize, revert; resize, confirm', async () => {
    for (const [end, disks] of [
      ['revertResize', 3],
      ['confirmResize', 3],
    ] as const) {
      await act(lab.cloud, { resize: { flavorRef: 'larger' } }, 'VERIFY_RESIZE');
      await act(lab.cloud, { [end]: null }, 'ACTIVE');
      await lab.expectBooted(id);
      assert.equal(images().length, disks, images().join(' '));
    }
    await lab.expectNoStrays();
  });

  test('delete leaves nothing in the pool, nor in its trash', async () => {
    await lab.remove(id);
    assert.deepEqual(images(), []);
    assert.equal(cluster.rbd('trash', 'ls', '--all', POOL), '');
  });
});
