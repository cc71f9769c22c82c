import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { after, before, describe, test } from 'node:test';
import { formatsUnderTest } from '#test/support/disk-lab.ts';
import { ProtectionWatch } from '#test/support/protection.ts';
import { findStrays } from '#test/support/strays.ts';
import { cryptMappings, diskVolumes, volumeGroup } from '#test/support/volume-group.ts';
import { VolumeLab } from '#test/support/volume-lab.ts';
import { isByKernel } from '#test/support/volume-strays.ts';
import { waitUntil } from '#test/support/wait.ts';

/*
 * The whole service on logical volumes, through the API: a disk is open exactly while its server's guest runs, whatever
 * ends it. Each test finds the server active and leaves it so, but the last.
 */

const isWhole = process.env.NIGHTLATCH_TEST_DEPTH === 'all';
const isNamed = process.env.NIGHTLATCH_TEST_FORMATS !== undefined;
const formats = isWhole || isNamed ? formatsUnderTest : (['luksv2'] as const);

let lab: VolumeLab;
before(async () => {
  lab = await VolumeLab.open();
});
after(async () => lab[Symbol.asyncDispose]());

for (const format of formats) {
  describe(`a server with ${format} disks`, { timeout: 3_600_000 }, () => {
    let id: string;
    let watch: ProtectionWatch;
    const engine = isByKernel({ encryption: format }) ? 'the kernel' : 'QEMU';

    test('is created: its disks are volumes of recognisable names, open while it runs', async () => {
      id = await lab.create(format);
      assert.deepEqual(await lab.volumeNames(id), ['disk', 'disk.config', 'disk.eph0', 'disk.swap']);
      await lab.expectBooted(id);
      await lab.expectOpen(id);
      watch = await ProtectionWatch.of(lab.lab, id);
      await watch.expectDocumented(engine, 'running');
    });

    test('suspended by a service that is killed on the way, all is locked, its memory on a volume; resumed, it goes on and is open', async () => {
      const letter = await lab.expectBooted(id);
      // Killed there, the service leaves the memory's mapping open, and nothing but its next start closes it.
      await lab.crashAt('agent.suspend-server.saved', () => lab.lab.cloud.act(id, { suspend: null }));
      await lab.reach(id, 'SUSPENDED');
      await lab.expectLocked(id, ['disk', 'disk.config', 'disk.eph0', 'disk.swap', 'memory']);
      await watch.expectDocumented(engine, 'suspended');
      await lab.act(id, { resume: null }, 'ACTIVE');
      await lab.expectLetter(id, letter);
      assert.equal((await lab.volumeNames(id)).includes('memory'), false);
      await lab.expectOpen(id);
    });

    test('stopped, all is locked; started, it is open', async () => {
      await lab.act(id, { 'os-stop': null }, 'SHUTOFF');
      await lab.expectLocked(id);
      await watch.expectDocumented(engine, 'stopped');
      await lab.act(id, { 'os-start': null }, 'ACTIVE');
      await lab.expectBooted(id);
      await lab.expectOpen(id);
    });

    if (isWhole) {
      for (const type of ['SOFT', 'HARD']) {
        test(`rebooted (${type}), it is open`, async () => {
          await lab.act(id, { reboot: { type } }, 'ACTIVE');
          await lab.expectBooted(id);
          await lab.expectOpen(id);
        });
      }

      test('paused, it stays open, as its lease says; unpaused, it goes on', async () => {
        const letter = await lab.expectBooted(id);
        await lab.act(id, { pause: null }, 'PAUSED');
        await lab.expectOpen(id);
        await watch.expectDocumented(engine, 'paused');
        await lab.act(id, { unpause: null }, 'ACTIVE');
        await lab.expectLetter(id, letter);
        await lab.expectOpen(id);
      });

      test('powered off by its guest, all is locked', async () => {
        await lab.press(id, 'p');
        await lab.reach(id, 'SHUTOFF');
        await lab.expectLocked(id);
        await lab.act(id, { 'os-start': null }, 'ACTIVE');
        await lab.expectBooted(id);
      });

      test('whose start fails, all is locked, and the fault tells; later it starts', async () => {
        await lab.act(id, { 'os-stop': null }, 'SHUTOFF');
        await lab.withoutConsoles(async () => {
          await lab.act(id, { 'os-start': null }, 'SHUTOFF');
          assert.match((await lab.lab.cloud.server(id)).fault.message, /libvirt says/);
          await lab.expectLocked(id);
        });
        await lab.act(id, { 'os-start': null }, 'ACTIVE');
        await lab.expectBooted(id);
      });

      test('runs on, open, when the service is killed, which finds it so', async () => {
        const letter = await lab.expectBooted(id);
        await lab.restartService();
        await lab.expectLetter(id, letter);
        await lab.expectOpen(id);
      });

      test('that ends while the service is down is found and locked', async () => {
        await lab.restartService(() => lab.killGuest());
        await lab.reach(id, 'SHUTOFF');
        await lab.expectLocked(id);
        await lab.act(id, { 'os-start': null }, 'ACTIVE');
        await lab.expectBooted(id);
      });
    }

    test('whose QEMU is killed, all is locked', async () => {
      await lab.killGuest();
      await lab.reach(id, 'SHUTOFF');
      await lab.expectLocked(id);
    });

    test('deleted, its volumes and its keys are gone', async () => {
      if (isWhole) await lab.act(id, { 'os-start': null }, 'ACTIVE');
      await lab.lab.delete(id);
      await lab.expectLocked(id, []);
      await watch.expectDocumented(engine, 'deleted');
    });
  });
}

test('whoever looks for strays finds a volume, a mapping and a key that are nobody’s', async () => {
  const [name, mapping] = ['stray-volume', 'nl-stray-mapping'];
  const sh = (script: string, input = '') => {
    const { status, stderr } = spawnSync('sh', ['-euc', script], { encoding: 'utf8', input });
    assert.equal(status, 0, stderr);
  };
  sh(`lvcreate -qy -L 16M -n ${name} --addtag nightlatch:disk:none ${volumeGroup}`);
  sh(
    `cryptsetup open --type plain --cipher aes-xts-plain64 --key-size 512 --hash plain --key-file=- /dev/${volumeGroup}/${name} ${mapping}`,
    'x'.repeat(64),
  );
  const found = (await findStrays(lab.lab.service)).join('\n');
  for (const stray of [name, mapping]) assert.match(found, new RegExp(stray));
  sh(`cryptsetup close ${mapping}; lvremove -qf ${volumeGroup}/${name}`);
  assert.deepEqual([await cryptMappings(), await diskVolumes()], [[], []]);
  await waitUntil('there are no strays', async () => (await findStrays(lab.lab.service)).length === 0);
});
