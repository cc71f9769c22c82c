import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { CloudClient, JsonObject } from '#cli/cloud/client.ts';
import { buildGuestImage } from '#cli/guest-image/guest-image.ts';
import { bootSector } from '#test/support/boot-sector.ts';
import { TestService } from '#test/support/service.ts';
import { type Comparison, inTurns, timed } from './comparison.ts';

const START_ROUNDS = 15;
const START_TARGET = 1.05;
const SUSPEND_ROUNDS = 7;
const SUSPEND_TARGET = 1.3;
const POLL_MS = 5;
const WAIT_MS = 120_000;
/** After a stop the service looks over the host; that is not part of the next start. */
const SETTLE_MS = 300;
/** Kept from run to run; git ignores it. */
const GUEST_CACHE = join(import.meta.dirname, '../.nightlatch/guest-images');
const READY = 'nightlatch-guest: ready';

const kinds = ['encrypted', 'plain'] as const;
type Kind = (typeof kinds)[number];
type Pair = Readonly<Record<Kind, string>>;
type Progress = (line: string) => void;

/**
 * `server start` until ACTIVE, over HTTP, of servers with a root, an ephemeral and a swap disk. What the guest does
 * then is not measured, so it is one of 512 bytes.
 */
export async function benchServerStart(progress: Progress): Promise<Comparison[]> {
  await using service = await TestService.start({ shutdownTimeout: 0 });
  const cloud = await service.client();
  const image = join(service.directory, 'boot-sector.raw');
  await writeFile(image, bootSector());
  const pair = await createPair(cloud, image, { ram: 64, disk: 1, ephemeral: 1, swap: 64 });
  for (const kind of kinds) await stop(cloud, pair[kind]);
  const startAndStop = async (id: string) => {
    const ms = await timed(() => actAndWait(cloud, id, { 'os-start': null }, 'ACTIVE'));
    await stop(cloud, id);
    await sleep(SETTLE_MS);
    return ms;
  };
  for (const kind of kinds) await startAndStop(pair[kind]);
  const times = await inTurns(
    START_ROUNDS,
    { encrypted: () => startAndStop(pair.encrypted), plain: () => startAndStop(pair.plain) },
    progress,
  );
  return [compare('server-start', 'start a server with three disks', times, START_TARGET)];
}

/** Suspend and resume, each until its status, of a Linux guest that has booted; the two times are added. */
export async function benchSuspendResume(progress: Progress): Promise<Comparison[]> {
  const { path } = await buildGuestImage({ cacheDirectory: GUEST_CACHE, progress });
  await using service = await TestService.start();
  const cloud = await service.client();
  const pair = await createPair(cloud, path, { ram: 256, disk: 1, ephemeral: 0, swap: 0 });
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

function compare(bench: string, what: string, times: Readonly<Record<Kind, number[]>>, target: number): Comparison {
  return {
    bench,
    ours: { what: `${what}, encrypted`, times: times.encrypted },
    other: { what: `${what}, not encrypted`, times: times.plain },
    target,
  };
}

/** Two servers, one with a flavor that encrypts and one without; both ACTIVE on return. */
async function createPair(cloud: CloudClient, image: string, flavor: JsonObject): Promise<Pair> {
  const imageRef = await cloud.uploadImage('bench', image, 'raw');
  const create = async (kind: Kind) => {
    const flavorRef = await createFlavor(cloud, kind, flavor);
    const body = { server: { name: kind, imageRef, flavorRef, networks: 'none' } };
    const { server } = await cloud.expect('compute', 'POST', '/v2.1/servers', { body });
    await cloud.waitForStatus(server.id, 'ACTIVE', WAIT_MS);
    return server.id as string;
  };
  return { encrypted: await create('encrypted'), plain: await create('plain') };
}

async function createFlavor(cloud: CloudClient, kind: Kind, sizes: JsonObject): Promise<string> {
  const { ephemeral, ...others } = sizes;
  const body = { flavor: { name: kind, vcpus: 1, 'OS-FLV-EXT-DATA:ephemeral': ephemeral, ...others } };
  const { flavor } = await cloud.expect('compute', 'POST', '/v2.1/flavors', { body });
  if (kind === 'plain') return flavor.id;
  const specs = { extra_specs: { 'hw:ephemeral_encryption': 'true', 'hw:ephemeral_encryption_format': 'luks' } };
  await cloud.expect('compute', 'POST', `/v2.1/flavors/${flavor.id}/os-extra_specs`, { body: specs });
  return flavor.id;
}

async function stop(cloud: CloudClient, id: string): Promise<void> {
  await actAndWait(cloud, id, { 'os-stop': null }, 'SHUTOFF');
}

/** Looks more often than `waitForStatus`, whose pauses would hide what is to be measured. */
async function actAndWait(cloud: CloudClient, id: string, action: JsonObject, status: string): Promise<void> {
  await cloud.act(id, action);
  const deadline = Date.now() + WAIT_MS;
  for (;;) {
    const server = await cloud.server(id);
    if (server['OS-EXT-STS:task_state'] === null) {
      if (server.status === status) return;
      throw new Error(`server ${id} is ${server.status} instead of ${status}: ${server.fault?.message ?? 'no fault'}`);
    }
    if (Date.now() > deadline) throw new Error(`server ${id} is still ${server.status} after ${WAIT_MS / 1000} s`);
    await sleep(POLL_MS);
  }
}

async function untilBooted(cloud: CloudClient, id: string): Promise<void> {
  const deadline = Date.now() + WAIT_MS;
  while (!(await cloud.consoleLog(id)).includes(READY)) {
    if (Date.now() > deadline) throw new Error(`the guest of server ${id} has not booted after ${WAIT_MS / 1000} s`);
    await sleep(100);
  }
}
