import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { CloudClient } from '#cli/cloud/client.ts';
import type { EncryptionFormat } from '#core/encryption-intent.ts';
import { connectPool, openDatabase } from '#db/database.ts';
import { bootSector } from '#test/support/boot-sector.ts';
import { nightlatch } from '#test/support/nightlatch-command.ts';
import { TestService } from '#test/support/service.ts';
import { type Comparison, timed } from './comparison.ts';
import { actAndWait } from './servers.ts';

const GUESTS = 50;
/** However many guests there are, the panic button is to be done before its operator loses patience. */
const BOUND_MS = 60_000;
const STOPS = 5;
const WAIT_MS = 600_000;
const AT_ONCE = 7;

type Progress = (line: string) => void;
export type PanicPlan = {
  readonly bench: string;
  readonly format: EncryptionFormat;
  readonly guests: number;
  readonly stops: number;
};

/** See `measurePanic`. */
export async function benchPanic(progress: Progress): Promise<Comparison[]> {
  await using service = await TestService.start({ shutdownTimeout: 0 });
  return await measurePanic(service, { bench: 'panic', format: 'luks', guests: GUESTS, stops: STOPS }, progress);
}

/**
 * `nightlatch host lock --all` with so many encrypted guests of 64 MiB, from the key to the proof; and one server's stop,
 * until SHUTOFF, for comparison. The guests are of 512 bytes: what a guest does is not what takes time.
 */
export async function measurePanic(
  service: TestService,
  { bench, format, guests, stops }: PanicPlan,
  progress: Progress,
): Promise<Comparison[]> {
  const cloud = await service.client();
  const create = await serverMaker(service, cloud, format);
  const one = await create('one');
  const stopTimes: number[] = [];
  for (let round = 0; round < stops; round++) {
    stopTimes.push(await timed(() => actAndWait(cloud, one, { 'os-stop': null }, 'SHUTOFF')));
    await actAndWait(cloud, one, { 'os-start': null }, 'ACTIVE');
  }
  for (let i = 1; i < guests; i += AT_ONCE) {
    await Promise.all(Array.from({ length: Math.min(AT_ONCE, guests - i) }, (_, j) => create(`guest ${i + j + 1}`)));
    progress(`${Math.min(i + AT_ONCE, guests)} guests run`);
  }
  const { ms, lockedMs } = await press(service, progress);
  const whole = { what: `lock a host with ${guests} guests, and prove it`, times: [ms] };
  const locked = { what: 'of it, until no guest runs and no disk is unlocked', times: [lockedMs] };
  const stopped = { what: 'stop one server, until it is SHUTOFF', times: stopTimes };
  const bound = { what: 'the longest it may take', times: [BOUND_MS] };
  return [
    { bench, ours: whole, other: bound, target: 1 },
    { bench, ours: whole, other: stopped, target: null },
    { bench, ours: locked, other: stopped, target: null },
  ];
}

async function press(service: TestService, progress: Progress): Promise<{ ms: number; lockedMs: number }> {
  let lockedMs = Number.NaN;
  const ms = await timed(async () => {
    const { code, stderr } = await nightlatch('host', 'lock', '--all', '--yes', '--config', service.configFile);
    for (const line of stderr.trim().split('\n')) progress(line);
    lockedMs = Number(/^([\d.]+) s: no guest runs, no disk is unlocked/m.exec(stderr)?.[1]) * 1000;
    if (code !== 0) throw new Error(`the host was not proved to be locked: ${stderr}`);
  });
  return { ms, lockedMs };
}

/** Makes encrypted servers that are ACTIVE, by their names. */
async function serverMaker(service: TestService, cloud: CloudClient, format: EncryptionFormat) {
  const image = join(service.directory, 'panic.raw');
  await writeFile(image, bootSector());
  const imageRef = await cloud.uploadImage('panic', image, 'raw');
  const { flavor } = await cloud.expect('compute', 'POST', '/v2.1/flavors', {
    body: { flavor: { name: 'panic', vcpus: 1, ram: 64, disk: 0 } },
  });
  const extra_specs = { 'hw:ephemeral_encryption': 'true', 'hw:ephemeral_encryption_format': format };
  await cloud.expect('compute', 'POST', `/v2.1/flavors/${flavor.id}/os-extra_specs`, { body: { extra_specs } });
  await allowManyGuests(service);
  return async (name: string) => {
    const body = { server: { name, imageRef, flavorRef: flavor.id, networks: 'none' } };
    const { server } = await cloud.expect('compute', 'POST', '/v2.1/servers', { body });
    await cloud.waitForStatus(server.id, 'ACTIVE', WAIT_MS);
    return server.id as string;
  };
}

/** Placement gives each processor to four guests at most; these only sleep. */
async function allowManyGuests(service: TestService): Promise<void> {
  const address = { host: join(service.stateDirectory, 'postgresql'), user: 'nightlatch', database: 'nightlatch' };
  await using db = openDatabase(connectPool(address));
  await db.updateTable('hosts').set({ vcpus: 1000 }).execute();
}
