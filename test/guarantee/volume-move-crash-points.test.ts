import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import type { InnerCrashPoint } from '#core/crash-point.ts';
import type { OperationContext } from '#operations/context.ts';
import { reencryptVolume } from '#operations/reencrypt-volume.ts';
import { CloudShell, shellUserData } from '#test/support/cloud-shell.ts';
import { guestsOf } from '#test/support/destroy-state.ts';
import { testGuestImage } from '#test/support/guest-image.ts';
import { GuestWriter } from '#test/support/guest-writer.ts';
import { findStrays } from '#test/support/strays.ts';
import { VolumesAndServers } from '#test/support/volumes-and-servers.ts';
import { waitUntil } from '#test/support/wait.ts';

/*
 * "Always openable", while the data of a volume moves under a guest that writes all the time: the service is killed at each
 * point, alone or with its guest. Nothing that the guest was told is written is lost, and one disk and one secret are left.
 */
const inner: readonly InnerCrashPoint[] = [
  'agent.mirror-disk.begun',
  'agent.switch-to-mirror.paused',
  'agent.switch-to-mirror.pivoted',
  'steps.move-volume.switched',
  'steps.move-volume.exchanged',
  'agent.destroy-disk.header-destroyed',
  'steps.destroy-volume-disk.removed',
  'keys.destroy-key.destroyed',
];
const steps = reencryptVolume({} as OperationContext).steps.flatMap(({ name }) => [
  `reencrypt-volume.${name}.before`,
  `reencrypt-volume.${name}.after`,
]);
/** Of these only what was written is mirrored. */
const backends = { files: 'qcow2' } as const;
const KIB_OF_NOISE = 16 * 1024;
const isWhole = process.env.NIGHTLATCH_TEST_DEPTH === 'all';
const alone = isWhole ? [...steps, ...inner] : inner.slice(2, 3);
const withGuest = isWhole ? inner.slice(0, 5) : [];

describe('a crash while the data of a volume moves under a guest', { timeout: 7_200_000 }, () => {
  let lab: VolumesAndServers;
  let server: string;
  let volume: string;
  let guest: CloudShell;
  let writer: GuestWriter;
  let boots = 1;
  before(async () => {
    lab = await VolumesAndServers.open({ imagesType: 'qcow2', shutdownTimeout: 5, backends });
    await lab.addEncryptedType('secret');
    const image = await lab.servers.cloud.uploadImage('guest', (await testGuestImage()).path, 'raw');
    const flavor = await lab.servers.addFlavor({}, { ram: 128, ephemeral: 0, swap: 0 });
    server = await lab.servers.create(flavor, image, { user_data: shellUserData });
    volume = await lab.addVolume({ name: 'data', volume_type: 'secret' });
    await lab.attach(server, volume);
    guest = await CloudShell.open(() => lab.servers.cloud, server);
    writer = new GuestWriter({ run: (command) => guest.run(command) }, volume);
    await writer.start(KIB_OF_NOISE, 'wrote-1');
  });
  after(() => lab[Symbol.asyncDispose]());

  const reencrypt = () => lab.must('POST', `/volumes/${volume}/action`, { 'nightlatch:rekey': { volume_key: true } });

  async function expectMoved(secret: string | null): Promise<void> {
    const status = async () => (await lab.must('GET', `/volumes/${volume}/migration`)).migration.status;
    const hasEnded = async () => !/accepted|running|cancelling/.test(await status());
    await waitUntil('it has ended', hasEnded, 300_000);
    assert.equal(await status(), 'completed');
    await lab.reach('volume', volume, 'in-use');
    assert.notEqual(await lab.secretOf(volume), secret);
    assert.equal(await lab.opens((await lab.secretOf(volume)) as never, await lab.fileOf(volume)), true);
  }

  for (const point of alone) {
    test(`the service, at ${point}: the guest goes on with what it wrote`, async () => {
      const secret = await lab.secretOf(volume);
      await lab.crashAt(point, reencrypt);
      await expectMoved(secret);
      const written = await writer.count();
      await waitUntil('the guest goes on writing', async () => (await writer.count()) > written + 3);
      assert.deepEqual(await findStrays(lab.servers.service), []);
    });
  }

  for (const point of withGuest) {
    test(`the service and its guest, at ${point}: the volume holds what was written`, async () => {
      const secret = await lab.secretOf(volume);
      await lab.crashAt(point, reencrypt, async () => {
        // A guest that goes on though it should not writes to a disk that nobody will look at.
        await sleep(2000);
        for (const pid of await guestsOf(lab.servers.service.stateDirectory)) process.kill(pid, 'SIGKILL');
      });
      const told = (await lab.servers.cloud.consoleLog(server)).matchAll(new RegExp(`wrote-${boots} (\\d+)`, 'g'));
      const written = Math.max(0, ...[...told].map(([, number]) => Number(number)));
      assert.ok(written > 0, 'the guest told nothing');
      await expectMoved(secret);
      await lab.servers.cloud.waitForStatus(server, 'SHUTOFF');
      assert.deepEqual(await findStrays(lab.servers.service), []);
      await lab.servers.cloud.act(server, { 'os-start': null });
      guest = await CloudShell.open(() => lab.servers.cloud, server, ++boots);
      await writer.expectRest();
      assert.ok((await writer.countOnVolume()) >= written, `${written} was written, and is not there`);
      await writer.start(KIB_OF_NOISE, `wrote-${boots}`);
    });
  }
});
