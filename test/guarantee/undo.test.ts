import assert from 'node:assert/strict';
import { rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { command } from '#test/support/command.ts';
import { CrashLab } from '#test/support/crash-lab.ts';
import { waitUntil } from '#test/support/wait.ts';

/*
 * An operation that cannot succeed is undone: no secret, file, guest or lease is left of it, also when the process is
 * killed while it undoes.
 */

const isWhole = process.env.NIGHTLATCH_TEST_DEPTH === 'all';
const whole = isWhole ? test : () => {};

describe('an operation that fails', { timeout: 1_800_000 }, () => {
  let lab: CrashLab;
  before(async () => {
    lab = await CrashLab.open();
  });
  after(() => lab[Symbol.asyncDispose]());

  /** While `work` runs, no guest can start: QEMU has nowhere to put its serial console. */
  const withoutConsoles = async (work: () => Promise<void>): Promise<void> => {
    const folder = join(lab.service.stateDirectory, 'run/tty');
    command('mount', ['-t', 'tmpfs', '-o', 'ro', 'none', folder]);
    try {
      await work();
    } finally {
      command('umount', [folder]);
    }
  };

  const expectFailedCreation = async (id: string, fault: RegExp): Promise<void> => {
    await assert.rejects(lab.cloud.waitForStatus(id, 'ACTIVE'), fault);
    await lab.expectNoStrays();
    await lab.remove(id);
  };

  test('create-server whose image is lost ends in ERROR with a fault, and nothing is left', async () => {
    const away = `${lab.imageFile}.away`;
    await rename(lab.imageFile, away);
    try {
      await expectFailedCreation(await lab.create('no image'), /image/i);
    } finally {
      await rename(away, lab.imageFile);
    }
  });

  test('create-server whose guest cannot start ends in ERROR with a fault, and nothing is left', async () => {
    await withoutConsoles(async () => {
      await expectFailedCreation(await lab.create('no start'), /libvirt says/);
    });
  });

  const undone = ['start.undo', 'create-disks.undo', 'store-keys.undo', 'failed'];
  const points = undone.flatMap((step) => [`create-server.${step}.before`, `create-server.${step}.after`]);
  for (const point of isWhole ? points : ['create-server.create-disks.undo.after', 'create-server.failed.before']) {
    test(`create-server, killed at ${point} while it is undone: it ends in ERROR, and nothing is left`, async () => {
      await withoutConsoles(async () => {
        await lab.crashAt(point, () => lab.create(`undo ${point}`));
        const id = (await lab.cloud.expect('compute', 'GET', '/v2.1/servers')).servers[0]?.id;
        await expectFailedCreation(id, /libvirt says/);
      });
    });
  }

  test('start-server whose guest cannot start leaves the server SHUTOFF with a fault, locked; later it starts', async () => {
    const id = await lab.create('start later');
    await lab.cloud.waitForStatus(id, 'ACTIVE');
    await lab.cloud.act(id, { 'os-stop': null });
    await lab.cloud.waitForStatus(id, 'SHUTOFF');
    await withoutConsoles(async () => {
      await lab.cloud.act(id, { 'os-start': null });
      const server = await lab.cloud.waitForStatus(id, 'SHUTOFF');
      assert.match(server.fault.message, /libvirt says/);
      await lab.expectNoStrays();
    });
    await lab.cloud.act(id, { 'os-start': null });
    const server = await lab.cloud.waitForStatus(id, 'ACTIVE');
    assert.equal(server.fault, undefined, 'an old fault is shown');
    await lab.expectBooted(id);
    await lab.remove(id);
  });

  for (const point of isWhole ? [null, 'rescue-server.stop.undo.before', 'rescue-server.attach.undo.after'] : [null]) {
    test(`rescue-server whose guest cannot start${point ? `, killed at ${point}` : ''}: the server runs as before`, async () => {
      const id = await lab.create('rescue later');
      await lab.cloud.waitForStatus(id, 'ACTIVE');
      await lab.expectBooted(id);
      const before = (await lab.service.log()).length;
      const failed = async () => /rescue-server\.stop\.undo failed/.test((await lab.service.log()).slice(before));
      const rescue = () => lab.cloud.act(id, { rescue: null });
      await withoutConsoles(async () => {
        if (point) await lab.crashAt(point, rescue);
        else await rescue();
        await waitUntil('the rescue has failed, and the way back too', failed, 60_000);
      });
      const server = await lab.cloud.waitForStatus(id, 'ACTIVE');
      assert.match(server.fault.message, /libvirt says/);
      await lab.expectNoStrays();
      await lab.expectBooted(id);
      await lab.remove(id);
    });
  }

  test('rescue-server whose image is lost never touches the guest', async () => {
    const id = await lab.create('rescue from nothing');
    await lab.cloud.waitForStatus(id, 'ACTIVE');
    const next = await lab.expectBooted(id);
    const other = await lab.cloud.uploadImage('other', join(lab.service.directory, 'boot.raw'), 'raw');
    await rm(join(lab.service.stateDirectory, 'images', other));
    await lab.cloud.act(id, { rescue: { rescue_image_ref: other } });
    const server = await lab.cloud.waitForStatus(id, 'ACTIVE');
    assert.match(server.fault.message, /data of image/);
    await lab.expectNoStrays();
    await lab.expectLetter(id, next);
    await lab.remove(id);
  });

  const resizePoints = ['resize-server.create-disks.undo.after', 'resize-server.exchange.undo.before'];
  for (const point of isWhole ? [null, ...resizePoints] : [null]) {
    test(`resize-server whose guest cannot start${point ? `, killed at ${point}` : ''}: the server runs as before`, async () => {
      const id = await lab.create('resize later');
      await lab.cloud.waitForStatus(id, 'ACTIVE');
      await lab.expectBooted(id);
      const before = (await lab.service.log()).length;
      const failed = async () => /resize-server\.stop\.undo failed/.test((await lab.service.log()).slice(before));
      const resize = () => lab.cloud.act(id, { resize: { flavorRef: 'larger' } });
      await withoutConsoles(async () => {
        if (point) await lab.crashAt(point, resize);
        else await resize();
        await waitUntil('the resize has failed, and the way back too', failed, 60_000);
      });
      const server = await lab.cloud.waitForStatus(id, 'ACTIVE');
      assert.match(server.fault.message, /libvirt says/);
      assert.equal(server.flavor.original_name, 'tiny');
      await lab.expectNoStrays();
      await lab.expectBooted(id);
      await lab.cloud.act(id, { resize: { flavorRef: 'larger' } });
      await lab.cloud.waitForStatus(id, 'VERIFY_RESIZE');
      await lab.expectBooted(id);
      await lab.remove(id);
    });
  }

  whole('a server whose creation failed is rebuilt', async () => {
    let id = '';
    await withoutConsoles(async () => {
      id = await lab.create('never was');
      await assert.rejects(lab.cloud.waitForStatus(id, 'ACTIVE'), /libvirt says/);
    });
    const { image } = await lab.cloud.server(id);
    await lab.cloud.act(id, { rebuild: { imageRef: image.id } });
    await lab.cloud.waitForStatus(id, 'ACTIVE');
    await lab.expectNoStrays();
    await lab.expectBooted(id);
    await lab.remove(id);
  });

  whole('rebuild-server whose image is lost never touches the guest', async () => {
    const id = await lab.create('rebuild from nothing');
    await lab.cloud.waitForStatus(id, 'ACTIVE');
    const next = await lab.expectBooted(id);
    const other = await lab.cloud.uploadImage('other', join(lab.service.directory, 'boot.raw'), 'raw');
    await rm(join(lab.service.stateDirectory, 'images', other));
    await lab.cloud.act(id, { rebuild: { imageRef: other, name: 'never' } });
    const server = await lab.cloud.waitForStatus(id, 'ACTIVE');
    assert.match(server.fault.message, /data of image/);
    assert.equal(server.name, 'rebuild from nothing');
    await lab.expectNoStrays();
    await lab.expectLetter(id, next);
    await lab.remove(id);
  });

  test('unshelve-server whose guest cannot start leaves the server where it was; later it comes back', async () => {
    const id = await lab.create('unshelve later');
    await lab.cloud.waitForStatus(id, 'ACTIVE');
    await lab.cloud.act(id, { shelve: null });
    await lab.cloud.waitForStatus(id, 'SHELVED_OFFLOADED');
    await withoutConsoles(async () => {
      await lab.cloud.act(id, { unshelve: null });
      const server = await lab.cloud.waitForStatus(id, 'SHELVED_OFFLOADED');
      assert.match(server.fault.message, /libvirt says/);
      assert.equal(server['OS-EXT-SRV-ATTR:host'], null);
      await lab.expectNoStrays();
    });
    await lab.cloud.act(id, { unshelve: null });
    await lab.cloud.waitForStatus(id, 'ACTIVE');
    await lab.expectBooted(id);
    await lab.remove(id);
  });

  whole('shelve-server whose image cannot be stored leaves the server SHUTOFF with its disks', async () => {
    const id = await lab.create('shelve later');
    await lab.cloud.waitForStatus(id, 'ACTIVE');
    const folder = join(lab.service.stateDirectory, 'images');
    command('mount', ['-t', 'tmpfs', '-o', 'size=1m', 'none', folder]);
    try {
      await lab.cloud.act(id, { shelve: null });
      const server = await lab.cloud.waitForStatus(id, 'SHUTOFF');
      assert.match(server.fault.message, /the image store is full/);
      await lab.expectNoStrays();
    } finally {
      command('umount', [folder]);
    }
    await lab.cloud.act(id, { 'os-start': null });
    await lab.cloud.waitForStatus(id, 'ACTIVE');
    await lab.expectBooted(id);
    await lab.remove(id);
  });

  test('resume-server that cannot restore keeps the saved memory; later the same guest goes on', async () => {
    const id = await lab.create('resume later');
    await lab.cloud.waitForStatus(id, 'ACTIVE');
    const next = await lab.expectBooted(id);
    await lab.cloud.act(id, { suspend: null });
    await lab.cloud.waitForStatus(id, 'SUSPENDED');
    await withoutConsoles(async () => {
      await lab.cloud.act(id, { resume: null });
      const server = await lab.cloud.waitForStatus(id, 'SUSPENDED');
      assert.match(server.fault.message, /libvirt says/);
      await lab.expectNoStrays();
    });
    await lab.cloud.act(id, { resume: null });
    await lab.cloud.waitForStatus(id, 'ACTIVE');
    await lab.expectLetter(id, next);
    await lab.remove(id);
  });
});
