import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { GIB } from '#core/sizes.ts';
import type { OperationContext } from '#operations/context.ts';
import { volumeOperations } from '#operations/durable-volume-operations.ts';
import { findStrays } from '#test/support/strays.ts';
import { VolumesAndServers } from '#test/support/volumes-and-servers.ts';

/*
 * "Crash anywhere", of volumes that a guest has: the process is killed at every crash point of attaching, extending and
 * detaching, and started again. The guest runs on meanwhile. What was asked is done then, and what the guest has is leased.
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
const detachPoints = pointsOf('detach-volume', ['agent.detach-volume.released', 'steps.detach-volume.unplugged']);
const rounds = Math.max(attachPoints.length, extendPoints.length, detachPoints.length);

describe('a crash at any point of what is done to volumes of a guest', { timeout: 3_600_000 }, () => {
  let lab: VolumesAndServers;
  let server: string;
  before(async () => {
    lab = await VolumesAndServers.open({ imagesType: 'raw', shutdownTimeout: 0 });
    await lab.addEncryptedType('secret');
    const flavor = await lab.servers.addFlavor({ 'hw:ephemeral_encryption': 'true' }, { ephemeral: 0, swap: 0 });
    server = await lab.servers.create(flavor, await lab.servers.addBootImage());
  });
  after(() => lab[Symbol.asyncDispose]());

  const path = () => `/v2.1/servers/${server}/os-volume_attachments`;
  const act = async (action: object, status: string) => {
    await lab.servers.cloud.act(server, action);
    await lab.servers.cloud.waitForStatus(server, status);
  };

  for (let round = 0; round < rounds; round++) {
    const at = (points: readonly string[]) => points[round % points.length] ?? '';
    const [attach, extend, detach] = [at(attachPoints), at(extendPoints), at(detachPoints)];
    test(`killed at ${attach}, ${extend} and ${detach}: it is attached, larger, and free again`, async () => {
      const volume = await lab.addVolume({ name: 'data', volume_type: 'secret' });
      const body = { volumeAttachment: { volumeId: volume } };
      await lab.crashAt(attach, () => lab.servers.cloud.expect('compute', 'POST', path(), { body }));
      await lab.reach('volume', volume, 'in-use');
      assert.equal(await lab.bytesInGuest(volume), GIB);
      assert.deepEqual(await findStrays(lab.servers.service), []);

      await lab.crashAt(extend, () => lab.must('POST', `/volumes/${volume}/action`, { 'os-extend': { new_size: 2 } }));
      await lab.reach('volume', volume, 'in-use');
      assert.equal((await lab.show('volume', volume)).size, 2);
      assert.equal(await lab.bytesInGuest(volume), 2 * GIB);
      assert.deepEqual(await findStrays(lab.servers.service), []);

      // A guest that is off lets volumes go at once.
      await act({ 'os-stop': null }, 'SHUTOFF');
      await lab.crashAt(detach, () => lab.servers.cloud.expect('compute', 'DELETE', `${path()}/${volume}`));
      await lab.reach('volume', volume, 'available');
      assert.deepEqual(await findStrays(lab.servers.service), []);
      assert.equal(await lab.opens((await lab.secretOf(volume)) as never, await lab.mediumOf(volume)), true);
      await lab.delete('volume', volume);
      await act({ 'os-start': null }, 'ACTIVE');
      assert.deepEqual(await findStrays(lab.servers.service), []);
    });
  }
});
