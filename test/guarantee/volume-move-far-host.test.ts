import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import type { InnerCrashPoint } from '#core/crash-point.ts';
import { MIB } from '#core/sizes.ts';
import { CuttableProxy } from '#test/support/cuttable-proxy.ts';
import { enrollWith, FarHost } from '#test/support/far-host.ts';
import { MoveLab } from '#test/support/move-lab.ts';
import { nightlatch } from '#test/support/nightlatch-command.ts';
import type { TestService } from '#test/support/service.ts';
import { waitUntil } from '#test/support/wait.ts';

/*
 * The data of a volume moves on another machine, which the service reaches over mutual TLS, under a guest that writes all the
 * time. While that host does not answer, nothing is given up: the move goes on once it does.
 */

const BACKENDS = '[volume_backends.slow]\n[volume_backends.fast]\nvolume_driver = "qcow2"\n';
const BYTE = 0xa5;
/** Longer than the connection takes to be given up, and any step is tried again. */
const CUT_MS = 60_000;
const isWhole = process.env.NIGHTLATCH_TEST_DEPTH === 'all';

describe('a volume whose data moves on another machine', { timeout: 3_600_000 }, () => {
  if (!isWhole) return;
  let lab: MoveLab;
  let host: FarHost;
  let proxy: CuttableProxy;

  before(async () => {
    const enroll = async (service: TestService) => {
      host = await FarHost.start(
        async (name, folder, address) => {
          proxy = await CuttableProxy.to(Number(address.split(':')[1]));
          await enrollWith(service)(name, folder, `127.0.0.1:${proxy.port}`);
        },
        { more: BACKENDS },
      );
      await waitForState(service, 'up');
    };
    lab = await MoveLab.open({ localHost: false }, 'secret', async (volumes) => {
      await enroll(volumes.servers.service);
      volumes.hostDirectory = host.stateDirectory;
      await volumes.addEncryptedType('secret', { volume_backend_name: 'fast' });
      await volumes.addEncryptedType('anywhere');
      await volumes.must('POST', '/types', { volume_type: { name: 'clear' } });
    });
  });
  after(async () => {
    await host?.[Symbol.asyncDispose]();
    await proxy?.[Symbol.asyncDispose]();
    await lab?.[Symbol.asyncDispose]();
  });

  async function waitForState(service: TestService, state: string): Promise<void> {
    const row = async () => {
      const { stdout } = await nightlatch('host', 'list', '--config', service.configFile, '-f', 'json');
      return JSON.parse(stdout)[0];
    };
    await waitUntil(`the host is ${state}`, async () => (await row())?.state === state, 60_000);
  }
  const isUp = () => waitForState(lab.lab.servers.service, 'up');
  const reasonIs = (pattern: RegExp, volume = lab.volume) =>
    waitUntil(`it says ${pattern}`, async () => pattern.test((await lab.migration(volume)).reason), 60_000);

  it('is rekeyed, retyped and migrated', async () => {
    const facts = await lab.facts();
    await lab.rekey();
    await lab.expectMoved(facts);
    const from = (await lab.lab.show('volume', lab.volume))['os-vol-host-attr:host'] as string;
    for (const action of [
      { 'os-retype': { new_type: 'clear', migration_policy: 'on-demand' } },
      { 'os-retype': { new_type: 'anywhere', migration_policy: 'on-demand' } },
      { 'os-migrate_volume': { host: from.replace('@fast#fast', '@slow#slow') } },
      { 'os-migrate_volume': { host: from } },
    ]) {
      await lab.act(action);
      const { status, reason } = await lab.ended();
      assert.deepEqual([status, reason], ['completed', null], JSON.stringify(action));
      await lab.goesOn();
      await lab.noStrays();
    }
  });

  it('the connection is cut while it is mirrored: that goes on, and is followed once there is one again', async () => {
    const facts = await lab.facts();
    await lab.rekey(1);
    await lab.begun(lab.volume, 2 * MIB);
    const { disk_processed_bytes: before } = await lab.migration();
    proxy.cut();
    await reasonIs(/Asking host far to .* failed/);
    await sleep(CUT_MS);
    assert.equal((await lab.migration()).status, 'running');
    proxy.mend();
    await isUp();
    await waitUntil('it is not waited for', async () => (await lab.migration()).reason === null, 60_000);
    const { status, disk_processed_bytes: then } = await lab.migration();
    assert.ok(status === 'completed' || status === 'completing' || then > before + 8 * MIB, 'it was begun again');
    await lab.hurry();
    await lab.expectMoved(facts);
    await lab.goesOn();
  });

  it('that is cancelled while there is no connection: it is as it was once there is', async () => {
    const facts = await lab.facts();
    await lab.rekey(1);
    await lab.begun();
    proxy.cut();
    await reasonIs(/Asking host far to .* failed/);
    await lab.act({ 'nightlatch:cancel_migration': null });
    proxy.mend();
    assert.equal((await lab.ended()).status, 'cancelled');
    await isUp();
    await lab.expectAsBefore(facts);
  });

  const points: readonly InnerCrashPoint[] = [
    'agent.mirror-disk.begun',
    'agent.switch-to-mirror.paused',
    'agent.switch-to-mirror.pivoted',
    'agent.destroy-disk.header-destroyed',
  ];
  for (const point of points) {
    it(`the host's agent dies at ${point}: nobody guesses, and it goes on when that is back`, async () => {
      const facts = await lab.facts();
      await host.end('SIGTERM');
      await host.launch({ NIGHTLATCH_CRASH_AT: point });
      await isUp();
      await lab.rekey();
      await host.ended(60_000);
      await reasonIs(/Asking host far to .* failed|connection/);
      await sleep(CUT_MS);
      assert.match((await lab.migration()).status, /running|completing/);
      await host.launch();
      await isUp();
      await lab.expectMoved(facts);
      await lab.goesOn();
    });
  }

  it('is copied there without a guest: a copy nobody asks after is ended, and made anew once there is a connection', async () => {
    const other = await lab.lab.addVolume({ name: 'other', volume_type: 'secret' });
    const facts = await lab.facts(other);
    assert.ok(facts.secret);
    await lab.lab.fill(await lab.lab.fileOf(other), facts.secret, BYTE, 4 * MIB);
    await lab.rekey(1, other);
    await lab.begun(other);
    proxy.cut();
    await reasonIs(/Asking host far to .* failed/, other);
    await sleep(CUT_MS);
    proxy.mend();
    await isUp();
    await lab.expectMoved(facts, 'available', other);
    const secret = await lab.lab.secretOf(other);
    assert.equal(await lab.lab.holds(await lab.lab.fileOf(other), secret as never, BYTE), true);
    await lab.lab.delete('volume', other);
    await lab.noStrays();
  });
});
