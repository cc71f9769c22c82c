import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import type { ServerId } from '#core/ids.ts';
import { disksOf } from '#db/disks.ts';
import { expectBooted } from '#test/support/boot-guest.ts';
import { nightlatch } from '#test/support/nightlatch-command.ts';
import { TroubleLab } from '#test/support/trouble-lab.ts';
import { cryptMappings } from '#test/support/volume-group.ts';

/** Nova's old switch, and the panic button, with the whole service on logical volumes. */
let lab: TroubleLab;
before(async () => {
  lab = await TroubleLab.open({ imagesType: 'lvm', more: '[ephemeral_storage_encryption]\nenabled = true\n' });
});
after(async () => lab[Symbol.asyncDispose]());

async function create(name: string, extraSpecs: Readonly<Record<string, string>>): Promise<string> {
  const flavor = { id: name, name, ram: 64, vcpus: 1, disk: 1, swap: 8 };
  await lab.cloud.expect('compute', 'POST', '/v2.1/flavors', { body: { flavor } });
  if (Object.keys(extraSpecs).length > 0) {
    const body = { extra_specs: extraSpecs };
    await lab.cloud.expect('compute', 'POST', `/v2.1/flavors/${name}/os-extra_specs`, { body });
  }
  const server = { name, imageRef: lab.image, flavorRef: name, networks: 'none' };
  const { id } = (await lab.cloud.expect('compute', 'POST', '/v2.1/servers', { body: { server } })).server;
  await lab.cloud.waitForStatus(id, 'ACTIVE');
  return id;
}

const formatsOf = async (id: string) => (await disksOf(lab.db, id as ServerId)).map(({ encryption }) => encryption);

test('who says nothing gets plain disks, each with its own key; who says false gets clear ones', async () => {
  assert.match(await lab.service.log(), /enabled is deprecated/);
  const silent = await create('silent', {});
  assert.deepEqual(await formatsOf(silent), ['plain', 'plain']);
  const secrets = (await disksOf(lab.db, silent as ServerId)).map(({ secret_id }) => secret_id);
  assert.equal(new Set(secrets).size, 2);
  assert.ok(!secrets.includes(null));
  const own = (await cryptMappings()).filter(({ name }) => name.startsWith(`nl-${silent}-`));
  assert.deepEqual(new Set(own.map(({ key }) => key)).size, 2, 'two mappings, two keys');
  await expectBooted(lab.cloud, silent);
  const clear = await create('clear', { 'hw:ephemeral_encryption': 'false' });
  assert.deepEqual(await formatsOf(clear), [null, null]);
  await create('named', { 'hw:ephemeral_encryption': 'true', 'hw:ephemeral_encryption_format': 'luksv2' });
});

test('the panic button leaves no mapping, by the service and without it', async () => {
  const press = () => nightlatch('host', 'lock', '--all', '--yes', '--config', lab.service.configFile);
  const { servers } = await lab.cloud.expect('compute', 'GET', '/v2.1/servers');
  for (const isServed of [true, false]) {
    assert.equal((await cryptMappings()).length, 4);
    if (!isServed) await lab.service.end('SIGKILL');
    const { code, stderr } = await press();
    assert.equal(code, 0, stderr);
    assert.deepEqual([await cryptMappings(), await lab.guests()], [[], []]);
    if (!isServed) {
      await lab.service.launch();
      await lab.relogin();
    }
    for (const { id } of servers) assert.equal((await lab.settled(id))?.status, 'SHUTOFF');
    await lab.expectTidy();
    for (const { id } of servers) await lab.actAndSettle(id, { 'os-start': null });
  }
});
