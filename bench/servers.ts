import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { CloudClient, JsonObject } from '#cli/cloud/client.ts';
import { buildGuestImage } from '#cli/guest-image/guest-image.ts';
import type { EncryptionFormat } from '#core/encryption-intent.ts';
import { bootSector } from '#test/support/boot-sector.ts';
import { TestService } from '#test/support/service.ts';
import { type Comparison, inTurns, timed } from './comparison.ts';

const START_ROUNDS = 15;
const START_TARGET = 1.05;
const SUSPEND_ROUNDS = 7;
const SUSPEND_TARGET = 1.3;
const POLL_MS = 5;
/** As long as it takes where a new process is dear. */
const WAIT_MS = 600_000;
/** After a stop the service looks over the host; that is not part of the next start. */
const SETTLE_MS = 300;
/** Kept from run to run; git ignores it. */
const GUEST_CACHE = join(import.meta.dirname, '../.nightlatch/guest-images');
const READY = 'nightlatch-guest: ready';

const kinds = ['encrypted', 'plain'] as const;
type Kind = (typeof kinds)[number];
type Pair = Readonly<Record<Kind, string>>;
type Progress = (line: string) => void;

/** What is measured of a service's servers, and what is expected. */
export type StartPlan = {
  readonly bench: string;
  readonly format: EncryptionFormat;
  readonly rounds: number;
  readonly target: number | null;
};

/** See `measureServerStart`. */
export async function benchServerStart(progress: Progress): Promise<Comparison[]> {
  await using service = await TestService.start({ shutdownTimeout: 0 });
  const plan = { bench: 'server-start', format: 'luks', rounds: START_ROUNDS, target: START_TARGET } as const;
  return [await measureServerStart(service, plan, progress)];
}

/**
 * `server start` until ACTIVE, over HTTP, of servers with a root, an ephemeral and a swap disk. What the guest does
 * then is not measured, so it is one of 512 bytes. Both servers are deleted again.
 */
export async function measureServerStart(
  service: TestService,
  { bench, format, rounds, target }: StartPlan,
  progress: Progress,
): Promise<Comparison> {
  const cloud = await service.client();
  const image = join(service.directory, 'boot-sector.raw');
  await writeFile(image, bootSector());
  const pair = await createPair(cloud, image, { ram: 64, disk: 1, ephemeral: 1, swap: 64 }, format);
  for (const kind of kinds) await stop(cloud, pair[kind]);
  const startAndStop = async (id: string) => {
    const ms = await timed(() => actAndWait(cloud, id, { 'os-start': null }, 'ACTIVE'));
    await stop(cloud, id);
    await sleep(SETTLE_MS);
    return ms;
  };
  for (const kind of kinds) await startAndStop(pair[kind]);
  const times = await inTurns(
    rounds,
    { encrypted: () => startAndStop(pair.encrypted), plain: () => startAndStop(pair.plain) },
    progress,
  );
  for (const kind of kinds) {
    await cloud.expect('compute', 'DELETE', `/v2.1/servers/${pair[kind]}`);
    await cloud.waitUntilGone(pair[kind]);
  }
  return compare(bench, `start a server with three disks of ${service.imagesType}`, times, target);
}

/** Suspend and resume, each until its status, of a Linux guest that has booted; the two times are added. */
export async function benchSuspendResume(progress: Progress): Promise<Comparison[]> {
  const { path } = await buildGuestImage({ cacheDirectory: GUEST_CACHE, progress });
  await using service = await TestService.start();
  const cloud = await service.client();
  const pair = await createPair(cloud, path, { ram: 256, disk: 1, ephemeral: 0, swap: 0 }, 'luks');
  progress('waiting for two guests to boot');
  for (const kind of kinds) await untilBooted(cloud, pair[kind]);
  const around = (id: string) =>
    timed(async () => {
      await actAndWait(cloud, id, { suspend: null }, 'SUSPENDED');
      await actAndWait(cloud, id, { resume: null }, 'ACTIVE');
    });
  for (const kind of kinds) await around(pair[kind]);
  const times = await inTurns(
    SUSPEND_ROUNDS,
    { encrypted: () => around(pair.encrypted), plain: () => around(pair.plain) },
    progress,
  );
  return [compare('suspend-resume', 'suspend and resume a Linux guest of 256 MiB', times, SUSPEND_TARGET)];
}

function compare(
  bench: string,
  what: string,
  times: Readonly<Record<Kind, number[]>>,
  target: number | null,
): Comparison {
  return {
    bench,
    ours: { what: `${what}, encrypted`, times: times.encrypted },
    other: { what: `${what}, not encrypted`, times: times.plain },
    target,
  };
}

/** Two servers, one with a flavor that encrypts and one without; both ACTIVE on return. */
async function createPair(
  cloud: CloudClient,
  image: string,
  flavor: JsonObject,
  format: EncryptionFormat,
): Promise<Pair> {
  const imageRef = await cloud.uploadImage('bench', image, 'raw');
  const create = async (kind: Kind) => {
    const flavorRef = await createFlavor(cloud, kind, flavor, format);
    const body = { server: { name: kind, imageRef, flavorRef, networks: 'none' } };
    const { server } = await cloud.expect('compute', 'POST', '/v2.1/servers', { body });
    await cloud.waitForStatus(server.id, 'ACTIVE', WAIT_MS);
    return server.id as string;
  };
  return { encrypted: await create('encrypted'), plain: await create('plain') };
}

async function createFlavor(
  cloud: CloudClient,
  kind: Kind,
  sizes: JsonObject,
  format: EncryptionFormat,
): Promise<string> {
  const { ephemeral, ...others } = sizes;
  const body = { flavor: { name: kind, vcpus: 1, 'OS-FLV-EXT-DATA:ephemeral': ephemeral, ...others } };
  const { flavor } = await cloud.expect('compute', 'POST', '/v2.1/flavors', { body });
  if (kind === 'plain') return flavor.id;
  const specs = { extra_specs: { 'hw:ephemeral_encryption': 'true', 'hw:ephemeral_encryption_format': format } };
  await cloud.expect('compute', 'POST', `/v2.1/flavors/${flavor.id}/os-extra_specs`, { body: specs });
  return flavor.id;
}

async function stop(cloud: CloudClient, id: string): Promise<void> {
  await actAndWait(cloud, id, { 'os-stop': null }, 'SHUTOFF');
}

/** Looks more often than `waitForStatus`, whose pauses would hide what is to be measured. */
export async function actAndWait(cloud: CloudClient, id: string, action: JsonObject, status: string): Promise<void> {
  await cloud.act(id, action);
  const deadline = Date.now() + WAIT_MS;
  for (;;) {
    const server = await cloud.server(id);
    if (server['OS-EXT-STS:task_state'] === null) {
      if (server.status === status) return;
      throw new Error(`server ${id} is ${server.status} instead of ${status}: ${server.fault?.message ?? 'no fault'}`);
    }
    if (Date.now() > deadline) throw new Error(`server ${id} is still ${server.status} after ${WAIT_MS / 1000} s`);
    await sleep(POLL_MS * cloud.patience);
  }
}

async function untilBooted(cloud: CloudClient, id: string): Promise<void> {
  const deadline = Date.now() + WAIT_MS;
  while (!(await cloud.consoleLog(id)).includes(READY)) {
    if (Date.now() > deadline) throw new Error(`the guest of server ${id} has not booted after ${WAIT_MS / 1000} s`);
    await sleep(100);
  }
}
