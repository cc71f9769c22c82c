import assert from 'node:assert/strict';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { expectBooted } from '#test/support/boot-guest.ts';
import { nightlatch } from '#test/support/nightlatch-command.ts';
import { TroubleLab } from '#test/support/trouble-lab.ts';

/*
 * The panic button: whatever its servers were in, the host is locked when the command ends with 0, and only then; with
 * the service, without it, and when it hangs.
 */

const isWhole = process.env.NIGHTLATCH_TEST_DEPTH === 'all';
let lab: TroubleLab;
before(async () => {
  lab = await TroubleLab.open({ shutdownTimeout: 0 });
});
after(() => lab[Symbol.asyncDispose]());

const press = (...more: string[]) =>
  nightlatch('host', 'lock', '--all', '--yes', '-f', 'json', '--config', lab.service.configFile, ...more);

async function expectLocked({ code, stdout, stderr }: Awaited<ReturnType<typeof press>>): Promise<void> {
  assert.equal(code, 0, stderr);
  const proof = JSON.parse(stdout) as Record<string, string>[];
  assert.deepEqual(
    proof.map((row) => Object.values(row)),
    ['guests', 'unlocked disks', 'mappings', 'libvirt secrets', 'live leases'].map((what) => [what, 'none']),
  );
  // Not as the command tells it: as it is.
  assert.deepEqual(await lab.guests(), []);
  assert.deepEqual(readdirSync(join(lab.service.stateDirectory, 'run/unlocked')), []);
  assert.doesNotMatch(readFileSync('/proc/mounts', 'utf8'), new RegExp(`${lab.service.stateDirectory}/run/unlocked`));
}

/** Servers in every state that the button may find, the last one in the middle of its creation. */
async function servers() {
  const [active, paused, suspended] = [await lab.create('three-disks'), await lab.create(), await lab.create()];
  for (const id of [active, paused, suspended]) await lab.cloud.waitForStatus(id, 'ACTIVE');
  await lab.cloud.act(paused, { pause: null });
  await lab.cloud.act(suspended, { suspend: null });
  await lab.cloud.waitForStatus(paused, 'PAUSED');
  await lab.cloud.waitForStatus(suspended, 'SUSPENDED');
  return { active, paused, suspended, building: await lab.create('three-disks') };
}

async function expectSettled({ active, paused, suspended, building }: Awaited<ReturnType<typeof servers>>) {
  const statuses = [];
  for (const id of [active, paused, suspended]) statuses.push((await lab.settled(id))?.status);
  assert.deepEqual(statuses, ['SHUTOFF', 'SHUTOFF', 'SUSPENDED']);
  const late = await lab.settled(building);
  assert.ok(late?.status === 'ERROR' || late?.status === 'SHUTOFF', `it is ${late?.status}`);
  if (late.status === 'ERROR') assert.match(late.fault.message, /being locked|libvirt/);
  await lab.expectTidy();
}

async function removeAll(all: Awaited<ReturnType<typeof servers>>): Promise<void> {
  await Promise.all(Object.values(all).map((id) => lab.delete(id)));
}

describe('the panic button', { timeout: 600_000 }, () => {
  it('locks by the service: servers are SHUTOFF, leases closed, and they start again', async () => {
    const all = await servers();
    assert.equal((await lab.guests()).length >= 2, true);
    const outcome = await press();
    await expectLocked(outcome);
    assert.doesNotMatch(outcome.stderr, /doing it without/);
    await expectSettled(all);
    await expectLocked(await press());
    assert.equal((await lab.actAndSettle(all.active, { 'os-start': null })).status, 'ACTIVE');
    await expectBooted(lab.cloud, all.active);
    assert.equal((await lab.actAndSettle(all.suspended, { resume: null })).status, 'ACTIVE');
    await removeAll(all);
  });

  it('locks while the service is down', async () => {
    const all = await servers();
    await lab.service.end('SIGKILL');
    await expectLocked(await press());
    await expectLocked(await press());
    await lab.service.launch();
    await lab.relogin();
    await expectSettled(all);
    await removeAll(all);
  });

  it('asks first, and does nothing when there is nobody to ask', async () => {
    const outcome = await nightlatch('host', 'lock', '--all', '--config', lab.service.configFile);
    assert.equal(outcome.code, 2);
    assert.match(outcome.stderr, /no terminal/);
    assert.equal((await nightlatch('host', 'lock', '--yes', '--config', lab.service.configFile)).code, 2);
  });

  if (isWhole) {
    it('locks when the service hangs, and the next start settles what it left', async () => {
      const all = await servers();
      process.kill(lab.service.pid ?? 0, 'SIGSTOP');
      const outcome = await press();
      await expectLocked(outcome);
      assert.match(outcome.stderr, /said nothing.*doing it without/);
      await lab.service.ended(5000);
      await lab.service.launch();
      await lab.relogin();
      await expectSettled(all);
      assert.equal(existsSync(join(lab.service.stateDirectory, 'lock-down')), false);
      assert.equal((await lab.actAndSettle(all.paused, { 'os-start': null })).status, 'ACTIVE');
      await removeAll(all);
    });

    it('locks while libvirt hangs', async () => {
      const all = await servers();
      const pid = Number(readFileSync(join(lab.service.stateDirectory, 'run/lv/libvirtd.pid'), 'utf8'));
      process.kill(pid, 'SIGSTOP');
      await expectLocked(await press());
      await lab.service.ended(5000);
      await lab.service.launch();
      await lab.relogin();
      await expectSettled(all);
      await removeAll(all);
    });
  }
});
