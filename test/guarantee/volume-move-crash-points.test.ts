import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import type { InnerCrashPoint } from '#core/crash-point.ts';
import type { OperationContext } from '#operations/context.ts';
import { reencryptVolume } from '#operations/reencrypt-volume.ts';
import { guestsOf } from '#test/support/destroy-state.ts';
import type { GuestWriter } from '#test/support/guest-writer.ts';
import { KIB_OF_NOISE, MoveLab } from '#test/support/move-lab.ts';
import type { VolumesAndServers } from '#test/support/volumes-and-servers.ts';

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
const isWhole = process.env.NIGHTLATCH_TEST_DEPTH === 'all';
const alone = isWhole ? [...steps, ...inner] : inner.slice(2, 3);
const withGuest = isWhole ? inner.slice(0, 5) : [];

describe('a crash while the data of a volume moves under a guest', { timeout: 7_200_000 }, () => {
  let move: MoveLab;
  let lab: VolumesAndServers;
  let server: string;
  let volume: string;
  let writer: GuestWriter;
  before(async () => {
    move = await MoveLab.open({ backends }, 'secret', (volumes) => volumes.addEncryptedType('secret'), 'wrote-1');
    ({ lab, server, volume, writer } = move);
  });
  after(() => move[Symbol.asyncDispose]());

  const reencrypt = () => move.rekey();

  async function expectMoved(secret: string | null): Promise<void> {
    const { status, reason } = await move.ended();
    assert.deepEqual([status, reason], ['completed', null]);
    await lab.reach('volume', volume, 'in-use');
    assert.notEqual(await lab.secretOf(volume), secret);
    assert.equal(await lab.opens((await lab.secretOf(volume)) as never, await lab.fileOf(volume)), true);
  }

  for (const point of alone) {
    test(`the service, at ${point}: the guest goes on with what it wrote`, async () => {
      const secret = await lab.secretOf(volume);
      await lab.crashAt(point, reencrypt);
      await expectMoved(secret);
      await move.goesOn();
      await move.noStrays();
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
      const told = (await lab.servers.cloud.consoleLog(server)).matchAll(new RegExp(`wrote-${move.boots} (\\d+)`, 'g'));
      const written = Math.max(0, ...[...told].map(([, number]) => Number(number)));
      assert.ok(written > 0, 'the guest told nothing');
      await expectMoved(secret);
      await lab.servers.cloud.waitForStatus(server, 'SHUTOFF');
      await move.noStrays();
      await move.boot();
      await writer.expectRest();
      assert.ok((await writer.countOnVolume()) >= written, `${written} was written, and is not there`);
      await writer.start(KIB_OF_NOISE, `wrote-${move.boots}`);
    });
  }
});
