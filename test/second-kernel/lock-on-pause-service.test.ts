import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { formatsUnderTest } from '#test/support/disk-lab.ts';
import { nightlatch } from '#test/support/nightlatch-command.ts';
import { ProtectionWatch } from '#test/support/protection.ts';
import { cryptMappings, diskKeysInKeyrings } from '#test/support/volume-group.ts';
import { VolumeLab } from '#test/support/volume-lab.ts';
import { isByKernel } from '#test/support/volume-strays.ts';

/*
 * `[libvirt] lock_on_pause` through the API: a paused server has no lease and no key in the kernel, whatever happens to
 * the service meanwhile, and whatever ends its guest or lets it go on does not wait for its disks. Each test finds the
 * server active and leaves it so, but the last.
 */

const isWhole = process.env.NIGHTLATCH_TEST_DEPTH === 'all';
const isNamed = process.env.NIGHTLATCH_TEST_FORMATS !== undefined;
const formats = isWhole || isNamed ? formatsUnderTest : (['luksv2'] as const);
const PAUSE = { pause: null };
const UNPAUSE = { unpause: null };

let lab: VolumeLab;
before(async () => {
  lab = await VolumeLab.open({ more: 'lock_on_pause = true' });
});
after(async () => lab[Symbol.asyncDispose]());

/** Paused: its disks are there for the guest, and nobody has a key of them. */
async function expectForgotten(id: string): Promise<void> {
  await lab.reach(id, 'PAUSED');
  assert.equal(await lab.lab.leasesOf(id), 0);
  const mappings = (await cryptMappings()).filter(({ name }) => name.startsWith(`nl-${id}-`));
  assert.ok(mappings.length > 0, 'its disks stay open');
  for (const { suspended, hasKey, key } of mappings) assert.deepEqual([suspended, hasKey], [true, false], key);
  assert.deepEqual(await diskKeysInKeyrings(), []);
  await lab.expectCiphertext(id);
}

async function expectGoesOn(id: string, letter: string): Promise<void> {
  await lab.reach(id, 'ACTIVE');
  await lab.expectLetter(id, letter);
  await lab.expectOpen(id);
}

async function start(id: string): Promise<void> {
  await lab.act(id, { 'os-start': null }, 'ACTIVE');
  await lab.expectBooted(id);
}

for (const format of formats.filter((each) => isByKernel({ encryption: each }))) {
  describe(`a server with ${format} disks on a host that forgets keys of the paused`, { timeout: 7_200_000 }, () => {
    let id: string;
    let watch: ProtectionWatch;

    test('is paused without its keys, and goes on with them', async () => {
      id = await lab.create(format);
      watch = await ProtectionWatch.of(lab.lab, id);
      const letter = await lab.expectBooted(id);
      await lab.act(id, PAUSE, 'PAUSED');
      await expectForgotten(id);
      await watch.expectDocumented('the kernel', 'paused, `lock_on_pause`');
      await lab.act(id, UNPAUSE, 'ACTIVE');
      await expectGoesOn(id, letter);
      await watch.expectDocumented('the kernel', 'running');
    });

    test('stays so when the service is killed once the keys are wiped; killed again once they are back, it goes on', async () => {
      const letter = await lab.expectBooted(id);
      await lab.crashAt('agent.lock-paused.wiped', () => lab.lab.cloud.act(id, PAUSE));
      await expectForgotten(id);
      await lab.crashAt('agent.unlock-paused.put-back', () => lab.lab.cloud.act(id, UNPAUSE));
      await expectGoesOn(id, letter);
    });

    test('whose QEMU is killed meanwhile is locked', async () => {
      await lab.act(id, PAUSE, 'PAUSED');
      await lab.killGuest();
      await lab.reach(id, 'SHUTOFF');
      await lab.expectLocked(id);
      await start(id);
    });

    test('is rebooted meanwhile, and open', async () => {
      await lab.act(id, PAUSE, 'PAUSED');
      await lab.act(id, { reboot: { type: 'HARD' } }, 'ACTIVE');
      await lab.expectBooted(id);
      await lab.expectOpen(id);
    });

    for (const isServed of isWhole ? [true, false] : [false]) {
      test(`is locked by the panic button ${isServed ? 'of the service' : 'without a service'}`, async () => {
        await lab.act(id, PAUSE, 'PAUSED');
        const press = () => nightlatch('host', 'lock', '--all', '--yes', '--config', lab.lab.service.configFile);
        if (isServed) assert.equal((await press()).code, 0);
        else {
          await lab.restartService(async () => {
            const { code, stderr } = await press();
            assert.equal(code, 0, stderr);
            assert.deepEqual([await cryptMappings(), await lab.lab.guests()], [[], []]);
          });
        }
        await lab.reach(id, 'SHUTOFF');
        await lab.expectLocked(id);
        await start(id);
      });
    }

    if (isWhole) {
      test('stays so when the service is killed; its guest ends while there is none, and it is locked', async () => {
        await lab.act(id, PAUSE, 'PAUSED');
        await lab.restartService();
        await expectForgotten(id);
        await lab.restartService(() => lab.killGuest());
        await lab.reach(id, 'SHUTOFF');
        await lab.expectLocked(id);
        await start(id);
      });

      test('is copied to an image meanwhile, for which the keys come and go; then it is shelved', async () => {
        const own = await lab.create(format, 'root');
        const letter = await lab.expectBooted(own);
        await lab.act(own, PAUSE, 'PAUSED');
        const { image_id } = await lab.lab.cloud.act(own, { createImage: { name: `of ${format}` } });
        await lab.reach(own, 'PAUSED');
        assert.equal((await lab.lab.cloud.expect('image', 'GET', `/v2/images/${image_id}`)).status, 'active');
        await expectForgotten(own);
        await lab.act(own, UNPAUSE, 'ACTIVE');
        await expectGoesOn(own, letter);
        await lab.act(own, PAUSE, 'PAUSED');
        await lab.act(own, { shelve: null }, 'SHELVED_OFFLOADED');
        assert.deepEqual(await lab.volumeNames(own), []);
        await lab.lab.expectTidy();
        await lab.act(own, { unshelve: null }, 'ACTIVE');
        await lab.expectBooted(own);
        await lab.lab.delete(own);
      });
    }

    test('holds up no other server, and is deleted', async () => {
      await lab.act(id, PAUSE, 'PAUSED');
      const other = await lab.create(format, 'root');
      await lab.expectBooted(other);
      await expectForgotten(id);
      await lab.lab.delete(id);
      await lab.expectOpen(other);
      await lab.lab.delete(other);
      await lab.expectLocked(id, []);
    });
  });
}

if (isWhole && formats.some((format) => !isByKernel({ encryption: format }))) {
  test('a server whose keys QEMU has runs on, and its fault says why', { timeout: 3_600_000 }, async () => {
    const id = await lab.create('luks', 'root');
    const letter = await lab.expectBooted(id);
    await lab.act(id, PAUSE, 'ACTIVE');
    assert.match((await lab.lab.cloud.server(id)).fault.message, /lock_on_pause/);
    await expectGoesOn(id, letter);
    await lab.lab.delete(id);
  });
}
