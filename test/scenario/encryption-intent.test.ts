import assert from 'node:assert/strict';
import { open, readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { GuestConsole } from '#cli/cloud/guest-console.ts';
import { markerScript, markersFor } from '#cli/guest-image/guest-script.ts';
import type { HostName } from '#core/ids.ts';
import { GIB, MIB } from '#core/sizes.ts';
import { readUpTo } from '#host/files.ts';
import { liveLeases } from '#keys/leases.ts';
import { expectBooted } from '#test/support/boot-guest.ts';
import { testGuestImage, waitForBoots } from '#test/support/guest-image.ts';
import { ServerLab } from '#test/support/server-lab.ts';
import { findStrays } from '#test/support/strays.ts';

/** What flavor and image ask for is what lies on the host, in every way of keeping disks. */

const isWhole = process.env.NIGHTLATCH_TEST_DEPTH === 'all';
// In the covering depth the transcript of the `openstack` client is the one that runs on raw.
const backends = isWhole ? (['qcow2', 'raw'] as const) : (['qcow2'] as const);

const asked = (encryption?: string, format?: string) => ({ encryption, format });
const flavorSpecs = ({ encryption, format }: ReturnType<typeof asked>) =>
  named({ 'hw:ephemeral_encryption': encryption, 'hw:ephemeral_encryption_format': format });
const imageProperties = ({ encryption, format }: ReturnType<typeof asked>) =>
  named({ hw_ephemeral_encryption: encryption, hw_ephemeral_encryption_format: format });
function named(values: Record<string, string | undefined>): Record<string, string> {
  return Object.fromEntries(Object.entries(values).filter(([, value]) => value !== undefined)) as Record<
    string,
    string
  >;
}

/** What flavor and image say, and whether the server's disks are encrypted then. */
const intents = {
  'the flavor': [asked('true', 'luks'), asked(), true],
  'the image': [asked(), asked('true', 'luks'), true],
  'the flavor, in the default format': [asked('true'), asked(), true],
  'the image, in the default format': [asked(), asked('true'), true],
  'both, in agreement': [asked('True', 'luks'), asked('true', 'luks'), true],
  'the flavor, the image naming the format': [asked('yes'), asked(undefined, 'luks'), true],
  nobody: [asked(), asked(), false],
  'neither, in so many words': [asked('false'), asked('false'), false],
  'nobody, though a format is named': [asked(undefined, 'luks'), asked(), false],
} as const;

const conflicts = {
  'the flavor wants it, the image does not': [
    asked('true'),
    asked('false'),
    /hw:ephemeral_encryption=true .* hw_ephemeral_encryption=false/,
  ],
  'the image wants it, the flavor does not': [
    asked('false'),
    asked('true'),
    /hw:ephemeral_encryption=false .* hw_ephemeral_encryption=true/,
  ],
  'they name different formats': [
    asked('true', 'luks'),
    asked('true', 'plain'),
    /format=luks .* hw_ephemeral_encryption_format=plain/,
  ],
} as const;

/** Whether a medium has this text in its first megabytes, where both kinds of disk keep a file system's first blocks. */
async function showsAtItsStart(path: string, text: string): Promise<boolean> {
  await using file = await open(path);
  return (await readUpTo(file, 8 * MIB, 0)).includes(text);
}

for (const imagesType of backends) {
  describe(`disks on ${imagesType}`, { timeout: 900_000 }, () => {
    const encryptedFormat = imagesType === 'raw' ? 'luks' : 'qcow2+luks';
    let lab: ServerLab;
    before(async () => {
      lab = await ServerLab.open({ imagesType, shutdownTimeout: 5 });
    });
    after(() => lab[Symbol.asyncDispose]());

    for (const [who, [flavor, image, isEncrypted]] of Object.entries(intents)) {
      it(`are ${isEncrypted ? 'encrypted' : 'in clear'}: asked by ${who}`, async () => {
        const id = await lab.create(
          await lab.addFlavor(flavorSpecs(flavor)),
          await lab.addBootImage(imageProperties(image)),
        );
        const disks = await lab.disksOf(id);
        assert.deepEqual(
          disks.map(({ role, sizeBytes }) => [role, sizeBytes]),
          [
            ['root', GIB],
            ['ephemeral', GIB],
            ['swap', 16 * MIB],
            ['config-drive', 4 * MIB],
          ],
        );
        const secrets = await lab.db.selectFrom('secrets').select('id').execute();
        const used = new Set(disks.map(({ secretId }) => secretId));
        const leased = (await liveLeases(lab.db)).map(({ disk_id }) => disk_id);
        for (const disk of disks) assert.equal(disk.format, isEncrypted ? encryptedFormat : imagesType, disk.role);
        assert.deepEqual([used.size, secrets.length, new Set(leased).size], isEncrypted ? [4, 4, 4] : [1, 0, 0]);
        assert.equal(used.has(null), !isEncrypted);
        // The label of an ext4 file system, which a guest without encryption would find in clear on the medium.
        const ephemeral = disks[1]?.path ?? '';
        assert.equal(await showsAtItsStart(ephemeral, 'ephemeral0'), !isEncrypted);
        await expectBooted(lab.cloud, id);
        await lab.delete(id);
        assert.deepEqual(await findStrays(lab.service), []);
      });
    }

    for (const [what, [flavor, image, message]] of Object.entries(conflicts)) {
      it(`are refused when ${what}`, async () => {
        const imageId = await lab.addBootImage(imageProperties(image));
        const { status, body } = await lab.ask(await lab.addFlavor(flavorSpecs(flavor)), imageId);
        assert.equal(status, 400);
        assert.match(body.badRequest.message, message);
        assert.deepEqual((await lab.cloud.expect('compute', 'GET', '/v2.1/servers')).servers, []);
      });
    }

    for (const format of ['plain', 'luksv2']) {
      it(`find no host that can do ${format}`, async () => {
        const flavor = await lab.addFlavor(flavorSpecs(asked('true', format)));
        await expectNoHost(flavor, `COMPUTE_EPHEMERAL_ENCRYPTION_${format.toUpperCase()}`);
      });
    }

    it('need a host with the traits, and only the encrypted ones do', async () => {
      const host = 'testhost' as HostName;
      const { traits } = await lab.db
        .selectFrom('hosts')
        .select('traits')
        .where('name', '=', host)
        .executeTakeFirstOrThrow();
      assert.deepEqual(traits.filter((trait) => trait.startsWith('COMPUTE_EPHEMERAL')).sort(), [
        'COMPUTE_EPHEMERAL_ENCRYPTION',
        'COMPUTE_EPHEMERAL_ENCRYPTION_LUKS',
      ]);
      const report = (reported: readonly string[]) =>
        lab.db
          .updateTable('hosts')
          .set({ traits: [...reported] })
          .where('name', '=', host)
          .execute();
      try {
        await report(traits.filter((trait) => trait !== 'COMPUTE_EPHEMERAL_ENCRYPTION_LUKS'));
        await expectNoHost(
          await lab.addFlavor(flavorSpecs(asked('true', 'luks'))),
          'COMPUTE_EPHEMERAL_ENCRYPTION_LUKS',
        );
        await report(traits.filter((trait) => !trait.startsWith('COMPUTE_EPHEMERAL')));
        await expectNoHost(await lab.addFlavor(flavorSpecs(asked('true'))), 'COMPUTE_EPHEMERAL_ENCRYPTION');
        const id = await lab.create(await lab.addFlavor({}), await lab.addBootImage());
        await lab.delete(id);
      } finally {
        await report(traits);
      }
    });

    it('have for their guest exactly the sizes of the flavor', async () => {
      const { path } = await testGuestImage();
      const image = await lab.cloud.uploadImage('guest', path, 'raw');
      const flavor = await lab.addFlavor(flavorSpecs(asked('true', 'luks')), { ram: 128, swap: 24 });
      const user_data = Buffer.from(markerScript({ markers: markersFor('nl-sizes-11') })).toString('base64');
      const id = await lab.create(flavor, image, { user_data });
      await waitForBoots(lab.cloud, id, 1);
      using guest = await GuestConsole.open(await lab.cloud.serialConsoleUrl(id));
      const sizes = { vda: GIB, vdb: GIB, vdc: 24 * MIB, vdd: 4 * MIB };
      for (const [name, bytes] of Object.entries(sizes)) {
        await guest.ask('NL size', new RegExp(`^NIGHTLATCH size ${name} ${bytes}$`));
      }
      await guest.ask('NL markers', /root=found ephemeral=found swap=found memory=found/);
      await lab.delete(id);
    });

    it('are as large as their image when the flavor names no size', async () => {
      const flavor = await lab.addFlavor(flavorSpecs(asked('true')), { disk: 0, ephemeral: 0, swap: 0 });
      const id = await lab.create(flavor, await lab.addBootImage(), { config_drive: false });
      assert.deepEqual(
        (await lab.disksOf(id)).map(({ role, sizeBytes }) => [role, sizeBytes]),
        [['root', MIB]],
      );
      await expectBooted(lab.cloud, id);
      await lab.delete(id);
    });

    if (imagesType === 'qcow2') {
      it('of servers from one image share its copy on the host', async () => {
        const image = await lab.addBootImage();
        const flavors = [await lab.addFlavor(flavorSpecs(asked('true'))), await lab.addFlavor({})];
        const ids = await Promise.all(flavors.map((flavor) => lab.create(flavor, image)));
        const cached = join(lab.service.stateDirectory, 'cache/images', image);
        for (const id of ids) {
          const backing = (await lab.disksOf(id)).map(({ backingFile }) => backingFile);
          assert.deepEqual(backing, [cached, null, null, null]);
          await expectBooted(lab.cloud, id);
        }
        const copies = (await readdir(join(lab.service.stateDirectory, 'cache/images'))).filter((name) =>
          name.includes(image),
        );
        assert.deepEqual(copies, [image]);
        const [first = '', second = ''] = ids;
        await lab.cloud.expect('image', 'DELETE', `/v2/images/${image}`);
        await lab.delete(first);
        await lab.cloud.act(second, { reboot: { type: 'HARD' } });
        await lab.cloud.waitForStatus(second, 'ACTIVE');
        await expectBooted(lab.cloud, second);
        await lab.delete(second);
        assert.deepEqual(await findStrays(lab.service), []);
        await assert.rejects(readFile(cached), 'the copy of a deleted image was kept though no disk starts from it');
      });
    }

    async function expectNoHost(flavor: string, trait: string): Promise<void> {
      const { status, body } = await lab.ask(flavor, await lab.addBootImage());
      assert.equal(status, 202);
      const reason = new RegExp(`No valid host was found.*testhost lacks the trait (COMPUTE_\\w+, )*${trait}\\.`);
      await assert.rejects(lab.cloud.waitForStatus(body.server.id, 'ACTIVE'), reason);
      await lab.delete(body.server.id);
      assert.deepEqual(await findStrays(lab.service), []);
    }
  });
}
