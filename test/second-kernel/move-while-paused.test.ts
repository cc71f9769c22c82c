import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { findStrays } from '#test/support/strays.ts';
import { cryptMappings } from '#test/support/volume-group.ts';
import { VolumesAndServers } from '#test/support/volumes-and-servers.ts';
import { waitUntil } from '#test/support/wait.ts';

/** On a host that forgets the keys of paused servers: the data of their volumes can neither be read nor written. */

let lab: VolumesAndServers;
let server: string;
let volume: string;
before(async () => {
  lab = await VolumesAndServers.open({ imagesType: 'lvm', more: 'lock_on_pause = true', backends: { volumes: 'lvm' } });
  await lab.addEncryptedType('secret', {}, 'luks2');
  const specs = { 'hw:ephemeral_encryption': 'true', 'hw:ephemeral_encryption_format': 'luksv2' };
  const flavor = await lab.servers.addFlavor(specs, { disk: 0, ephemeral: 0, swap: 0 });
  server = await lab.servers.create(flavor, await lab.servers.addBootImage(), { config_drive: false });
  volume = await lab.addVolume({ name: 'data', volume_type: 'secret' });
  await lab.attach(server, volume);
});
after(() => lab[Symbol.asyncDispose]());

const PATIENCE_MS = 600_000;
const migration = async () => (await lab.must('GET', `/volumes/${volume}/migration`)).migration;
const rekey = (bandwidth: number) =>
  lab.must('POST', `/volumes/${volume}/action`, { 'nightlatch:rekey': { volume_key: true, bandwidth } });
const ended = async () => {
  const hasEnded = async () => !/accepted|running|cancelling|completing/.test((await migration()).status);
  await waitUntil('the move has ended', hasEnded, PATIENCE_MS);
  await lab.reach('volume', volume, 'in-use');
  return await migration();
};

test('a volume of a paused server is not moved, and a server is not paused while its volume is', async () => {
  const { cloud } = lab.servers;
  const secret = await lab.secretOf(volume);
  await cloud.act(server, { pause: null });
  await cloud.waitForStatus(server, 'PAUSED');
  await rekey(0);
  const { status, reason } = await ended();
  assert.equal(status, 'error');
  assert.match(reason, /is paused, and its host has forgotten its keys\. Unpause it first/);
  assert.equal(await lab.secretOf(volume), secret);
  assert.ok(
    (await cryptMappings()).every(({ hasKey }) => !hasKey),
    'a key came back',
  );
  await cloud.act(server, { unpause: null });
  await cloud.waitForStatus(server, 'ACTIVE');
  assert.deepEqual(await findStrays(lab.servers.service), []);
  await rekey(1);
  await waitUntil('something is copied', async () => (await migration()).disk_processed_bytes > 0, PATIENCE_MS);
  await cloud.act(server, { pause: null });
  await cloud.waitForStatus(server, 'ACTIVE');
  await lab.must('POST', `/volumes/${volume}/action`, { 'nightlatch:set_migration_bandwidth': { bandwidth: 0 } });
  assert.deepEqual([(await ended()).status, (await lab.secretOf(volume)) === secret], ['completed', false]);
  assert.deepEqual(await findStrays(lab.servers.service), []);
  await cloud.act(server, { pause: null });
  await cloud.waitForStatus(server, 'PAUSED');
});
