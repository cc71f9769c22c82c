import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { GIB } from '#core/sizes.ts';
import type { OperationContext } from '#operations/context.ts';
import { volumeOperations } from '#operations/durable-volume-operations.ts';
import { guestsOf } from '#test/support/destroy-state.ts';
import { findStrays } from '#test/support/strays.ts';
import { VolumesAndServers } from '#test/support/volumes-and-servers.ts';
import { waitUntil } from '#test/support/wait.ts';

/*
 * "Crash anywhere", of volumes that a guest has: the process is killed at every crash point of attaching, extending and
 * detaching, and started again; the guest runs on meanwhile, or is killed too. What was asked is done then, what the guest
 * has is leased, and nothing else is.
 */

const isWhole = process.env.NIGHTLATCH_TEST_DEPTH === 'all';

/** Those inside of steps; at the whole depth two more for each step. */
function pointsOf(name: string, inner: readonly string[]): string[] {
  const operation = volumeOperations({} as OperationContext).find((each) => each.name === name);
  assert.ok(operation, `there is no operation ${name}`);
  if (!isWhole) return inner.slice(0, 1);
  return [
    ...inner,
    ...operation.steps.flatMap((step) => [`${name}.${step.name}.before`, `${name}.${step.name}.after`]),
  ];
}

const attachPoints = pointsOf('attach-volume', [
  'agent.attach-volume.attached',
  'agent.attach-volume.unlocked',
  'steps.attach-volume.plugged',
  'keys.lend.leased',
  'operations.recorded',
]);
const extendPoints = pointsOf('extend-volume', ['agent.grow-disk.grown', 'steps.extend-volume.grown']);
const detachPoints = pointsOf('detach-volume', [
  'agent.detach-volume.released',
  'steps.detach-volume.unplugged',
  'operations.recorded',
]);
const rounds = Math.max(attachPoints.length, extendPoints.length, detachPoints.length);
const BYTE = 0x4d;

describe('a crash at any point of what is done to volumes of a guest', {
  timeout: isWhole ? 7_200_000 : 600_000,
}, () => {
  let lab: VolumesAndServers;
  let server: string;
  before(async () => {
    lab = await VolumesAndServers.open({ shutdownTimeout: 0, backends: { files: 'raw', layered: 'qcow2' } });
    await lab.addEncryptedType('raw', { volume_backend_name: 'files' });
    await lab.addEncryptedType('qcow2', { volume_backend_name: 'layered' });
    const flavor = await lab.servers.addFlavor({ 'hw:ephemeral_encryption': 'true' }, { ephemeral: 0, swap: 0 });
    server = await lab.servers.create(flavor, await lab.servers.addBootImage());
  });
  after(() => lab[Symbol.asyncDispose]());

  const path = () => `/v2.1/servers/${server}/os-volume_attachments`;
  const attach = (volumeId: string) =>
    lab.servers.cloud.expect('compute', 'POST', path(), { body: { volumeAttachment: { volumeId } } });
  const extend = (volume: string) => lab.must('POST', `/volumes/${volume}/action`, { 'os-extend': { new_size: 2 } });
  const detach = (volume: string) => lab.servers.cloud.expect('compute', 'DELETE', `${path()}/${volume}`);
  const expectNoStrays = async () => assert.deepEqual(await findStrays(lab.servers.service), []);
  const addVolume = async (type: string) => {
    const volume = await lab.addVolume({ name: 'data', volume_type: type });
    await lab.fill(await lab.fileOf(volume), (await lab.secretOf(volume)) as never, BYTE);
    return volume;
  };

  const expectAttached = async (volume: string, sizeGib: number) => {
    await lab.reach('volume', volume, 'in-use');
    assert.equal((await lab.show('volume', volume)).size, sizeGib);
    await expectNoStrays();
  };
  const expectSeen = async (volume: string, sizeGib: number) => {
    await expectAttached(volume, sizeGib);
    assert.equal(await lab.bytesInGuest(volume), sizeGib * GIB);
  };
  const expectFree = async (volume: string) => {
    await lab.reach('volume', volume, 'available');
    assert.deepEqual((await lab.show('volume', volume)).attachments, []);
    assert.deepEqual(
      lab.disksInGuest().filter((serial) => volume.startsWith(serial)),
      [],
    );
    await expectNoStrays();
    const [secret, file] = [(await lab.secretOf(volume)) as never, await lab.fileOf(volume)];
    assert.equal(await lab.holds(file, secret, BYTE), true, 'it does not hold what it held');
    await lab.delete('volume', volume);
    await expectNoStrays();
  };
  const killGuests = async () => {
    for (const pid of await guestsOf(lab.servers.service.stateDirectory)) process.kill(pid, 'SIGKILL');
  };
  const turn = async (action: 'os-start' | 'os-stop', status: string) => {
    await lab.servers.cloud.act(server, { [action]: null });
    await lab.servers.cloud.waitForStatus(server, status);
  };

  for (let round = 0; round < rounds; round++) {
    const at = (points: readonly string[]) => points[round % points.length] ?? '';
    const [one, two, three] = [at(attachPoints), at(extendPoints), at(detachPoints)];
    const type = round % 2 === 0 ? 'raw' : 'qcow2';
    test(`killed at ${one}, ${two} and ${three}: its guest has it, larger, and lets it go (${type})`, async () => {
      const volume = await addVolume(type);
      await lab.crashAt(one, () => attach(volume));
      await expectSeen(volume, 1);
      await lab.crashAt(two, () => extend(volume));
      await expectSeen(volume, 2);
      await lab.crashAt(three, () => lab.detachFromGuest(server, volume));
      if ((await lab.show('volume', volume)).status !== 'available') await lab.letGoInGuest(server, volume);
      await expectFree(volume);
    });
  }

  if (!isWhole) return;

  for (const [one, two, three] of [
    ['agent.attach-volume.attached', 'agent.grow-disk.grown', 'detach-volume.unplug.before'],
    ['keys.lend.leased', 'steps.extend-volume.grown', 'operations.recorded'],
    ['steps.attach-volume.plugged', 'extend-volume.grow.before', 'agent.detach-volume.released'],
  ] as const) {
    test(`killed with its guest at ${one}, ${two} and ${three}: nothing of it stays open`, async () => {
      const volume = await addVolume('raw');
      await lab.crashAt(one, () => attach(volume), killGuests);
      await lab.servers.cloud.waitForStatus(server, 'SHUTOFF');
      await expectAttached(volume, 1);
      await turn('os-start', 'ACTIVE');
      await expectSeen(volume, 1);
      await lab.crashAt(two, () => extend(volume), killGuests);
      await lab.servers.cloud.waitForStatus(server, 'SHUTOFF');
      await expectAttached(volume, 2);
      await turn('os-start', 'ACTIVE');
      await expectSeen(volume, 2);
      await lab.crashAt(three, () => lab.detachFromGuest(server, volume), killGuests);
      await lab.servers.cloud.waitForStatus(server, 'SHUTOFF');
      await expectFree(volume);
      await turn('os-start', 'ACTIVE');
      await expectNoStrays();
    });
  }

  for (const three of detachPoints) {
    test(`killed at ${three} while its server is off: it is free again`, async () => {
      const volume = await addVolume('qcow2');
      await lab.attach(server, volume);
      await turn('os-stop', 'SHUTOFF');
      await lab.crashAt(three, () => detach(volume));
      await expectFree(volume);
      await turn('os-start', 'ACTIVE');
      await expectNoStrays();
    });
  }

  test('killed while its guest is asked for it and lets nothing go: the guest keeps it, and is asked again', async () => {
    const volume = await addVolume('raw');
    await lab.attach(server, volume);
    await detach(volume);
    await sleep(3000);
    assert.equal((await lab.show('volume', volume)).status, 'detaching');
    await lab.servers.service.end('SIGKILL');
    await lab.servers.service.launch();
    lab.servers.cloud = await lab.servers.service.client();
    // It is asked four times, for half a minute each.
    const isGivenUp = async () => (await lab.show('volume', volume)).status === 'in-use';
    await waitUntil('it is given up', isGivenUp, 240_000);
    await expectSeen(volume, 1);
    await lab.detachFromGuest(server, volume);
    await expectFree(volume);
  });
});
