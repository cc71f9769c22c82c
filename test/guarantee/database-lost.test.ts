import assert from 'node:assert/strict';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { bootSector } from '#test/support/boot-sector.ts';
import { guestsOf } from '#test/support/destroy-state.ts';
import { TestService } from '#test/support/service.ts';

test('a service that loses its database says so and ends; its guest runs on, and the next start goes on with it', async () => {
  await using service = await TestService.start();
  const cloud = await service.client();
  const image = join(service.directory, 'image.raw');
  await writeFile(image, bootSector());
  const imageRef = await cloud.uploadImage('boot sector', image, 'raw');
  const flavor = { name: 'tiny', vcpus: 1, ram: 64, disk: 1 };
  const { flavor: made } = await cloud.expect('compute', 'POST', '/v2.1/flavors', { body: { flavor } });
  const server = { name: 'runs on', imageRef, flavorRef: made.id, networks: 'none' };
  const { server: created } = await cloud.expect('compute', 'POST', '/v2.1/servers', { body: { server } });
  await cloud.waitForStatus(created.id, 'ACTIVE');
  const guests = await guestsOf(service.stateDirectory);
  assert.equal(guests.length, 1);

  const pidFile = join(service.stateDirectory, 'postgresql/data/postmaster.pid');
  process.kill(Number.parseInt(await readFile(pidFile, 'utf8'), 10), 'SIGKILL');
  await service.ended(20_000);

  assert.equal(await service.end('SIGKILL'), 1);
  const log = await service.log();
  assert.match(log, /^error: Serving failed: the connection to PostgreSQL broke \(.+\)\. Guests run on\./m);
  assert.doesNotMatch(log, /Unhandled|Node\.js v/);
  assert.deepEqual(await guestsOf(service.stateDirectory), guests);
  await service.launch();
  assert.equal((await (await service.client()).server(created.id)).status, 'ACTIVE');
  assert.deepEqual(await guestsOf(service.stateDirectory), guests);
});
