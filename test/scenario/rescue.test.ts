import assert from 'node:assert/strict';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { GuestConsole } from '#cli/cloud/guest-console.ts';
import { diskRoles, type StorageFormat } from '#core/disk.ts';
import { powerStates } from '#core/server.ts';
import { CLOUD_NAME } from '#main/clouds-yaml.ts';
import { expectBooted } from '#test/support/boot-guest.ts';
import { bootSector } from '#test/support/boot-sector.ts';
import { type OpenStackClient, openStackClient } from '#test/support/openstack-client.ts';
import { ServerLab } from '#test/support/server-lab.ts';
import { wayOf } from '#test/support/server-way.ts';
import { formatUnderTest, imagesTypeUnderTest } from '#test/support/service.ts';
import { findStrays } from '#test/support/strays.ts';
import { waitUntil } from '#test/support/wait.ts';

/** A server is rescued from another image and comes back, by the real client. */
const isWhole = process.env.NIGHTLATCH_TEST_DEPTH === 'all';
const onVolumes = imagesTypeUnderTest === 'lvm';
const ENCRYPTED = { 'hw:ephemeral_encryption': 'true', 'hw:ephemeral_encryption_format': formatUnderTest };
/** In files, or what `NIGHTLATCH_TEST_IMAGES_TYPE` names. */
const storages: readonly StorageFormat[] = onVolumes ? ['lvm'] : isWhole ? ['raw', 'qcow2'] : ['qcow2'];

for (const imagesType of storages) {
  describe(`openstack server rescue and unrescue (${imagesType})`, { timeout: onVolumes ? 3_600_000 : 300_000 }, () => {
    let lab: ServerLab;
    let openstack: OpenStackClient;
    let id: string;

    before(async () => {
      lab = await ServerLab.open({ imagesType, shutdownTimeout: 5 });
      openstack = openStackClient(lab.service.stateDirectory, CLOUD_NAME);
      const flavor = await lab.addFlavor(ENCRYPTED);
      id = await lab.create(flavor, await lab.addBootImage());
      const tools = join(lab.service.directory, 'tools.raw');
      await writeFile(tools, Buffer.concat([rescueSector(), Buffer.alloc(2 * 1024 * 1024 - 512)]));
      await lab.cloud.uploadImage('tools', tools, 'raw');
      await expectBooted(lab.cloud, id);
    });
    after(() => lab[Symbol.asyncDispose]());

    const way = (end: string, ...args: string[]) =>
      wayOf(lab.cloud, 'web', end, () => openstack.does('server', ...args));
    const roles = async () => (await lab.disksOf(id)).map(({ role }) => role);
    const boots = async (word: string) => (await lab.cloud.consoleLog(id)).split(word).length - 1;
    const leased = async () => {
      const rows = lab.db.selectFrom('leases').innerJoin('disks', 'disks.id', 'leases.disk_id').select('disks.role');
      const open = (await rows.where('closed_at', 'is', null).execute()).map(({ role }) => role);
      return diskRoles.filter((role) => open.includes(role));
    };

    it('boots from the rescue disk, which is encrypted with a key of its own; what is not attached is locked', async () => {
      const seen = await way('RESCUE', 'rescue', 'web', '--image', 'tools', '--password', 'none');
      assert.deepEqual(seen, ['ACTIVE', 'ACTIVE rescuing', 'RESCUE']);
      await expectBooted(lab.cloud, id);
      assert.equal(await boots('TOOLS'), 1);
      const disks = await lab.disksOf(id);
      const [rescue, root] = disks;
      assert.deepEqual([rescue?.role, rescue?.format, rescue?.sizeBytes], ['rescue', root?.format, 2 * 1024 * 1024]);
      assert.equal(new Set(disks.map(({ secretId }) => secretId)).size, disks.length);
      assert.deepEqual(await leased(), ['rescue', 'root', 'config-drive']);
      assert.deepEqual(await findStrays(lab.service), []);
    });

    it('stays rescued, and locked, when its guest powers itself off', async () => {
      {
        using guest = await GuestConsole.open(await lab.cloud.serialConsoleUrl(id));
        await guest.exchange('p', /^/);
      }
      await waitUntil(
        'the end is noticed',
        async () => {
          const { 'OS-EXT-STS:power_state': power, 'OS-EXT-STS:task_state': task } = await lab.cloud.server(id);
          return power === powerStates.shutdown && task === null;
        },
        10_000 * lab.cloud.patience,
      );
      assert.equal((await lab.cloud.server(id)).status, 'RESCUE');
      assert.deepEqual(await leased(), []);
      assert.deepEqual(await findStrays(lab.service), []);
    });

    it('comes back from its own disks, and nothing of the rescue is left', async () => {
      assert.deepEqual(await way('ACTIVE', 'unrescue', 'web'), ['RESCUE', 'RESCUE unrescuing', 'ACTIVE']);
      await expectBooted(lab.cloud, id);
      assert.deepEqual([await boots('READY'), await boots('TOOLS')], [2, 1]);
      assert.deepEqual(await roles(), ['root', 'ephemeral', 'swap', 'config-drive']);
      assert.deepEqual(await findStrays(lab.service), []);
    });

    it('is rescued from its own image when it is stopped, and deleted while it is rescued', async () => {
      await openstack.does('server', 'stop', 'web');
      await lab.cloud.waitForStatus(id, 'SHUTOFF');
      assert.deepEqual(await way('RESCUE', 'rescue', 'web'), ['SHUTOFF', 'SHUTOFF rescuing', 'RESCUE']);
      await expectBooted(lab.cloud, id);
      assert.match(await openstack.fails('server', 'stop', 'web'), /'stop' .* vm_state rescued \(HTTP 409\)/);
      await openstack.does('server', 'delete', '--wait', 'web');
      assert.deepEqual(await findStrays(lab.service), []);
    });
  });
}

/** The boot sector under another name. */
function rescueSector(): Buffer {
  const sector = bootSector();
  sector.write('TOOLS', sector.indexOf('READY'), 'latin1');
  return sector;
}
