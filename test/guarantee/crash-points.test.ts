import assert from 'node:assert/strict';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import type { CloudClient, JsonObject } from '#cli/cloud/client.ts';
import { GuestConsole } from '#cli/cloud/guest-console.ts';
import type { InnerCrashPoint } from '#core/crash-point.ts';
import type { OperationContext } from '#operations/context.ts';
import { serverOperations } from '#operations/durable-server-operations.ts';
import { bootSector } from '#test/support/boot-sector.ts';
import { TestService } from '#test/support/service.ts';
import { findStrays } from '#test/support/strays.ts';

/*
 * "Crash anywhere": the process is killed at every crash point of every operation and started again. The operation has
 * then finished, nothing is left over, and every disk still opens: the guest boots from its encrypted disk, and one that
 * was suspended counts on from where its memory was.
 */

type Case = {
  /** Brings a fresh server into the state from which the operation starts. */
  readonly prepare: (cloud: CloudClient, id: string) => Promise<void>;
  readonly request: (cloud: CloudClient, id: string) => Promise<unknown>;
  /** Status once the operation has finished; null: the server is gone. */
  readonly ends: string | null;
  readonly inner: readonly InnerCrashPoint[];
};

const act = (action: JsonObject) => (cloud: CloudClient, id: string) => cloud.act(id, action);
const reach =
  (status: string, ...actions: JsonObject[]) =>
  async (cloud: CloudClient, id: string) => {
    for (const action of actions) {
      await cloud.act(id, action);
      await cloud.waitForStatus(id, actions.at(-1) === action ? status : await expected(action));
    }
  };
const expected = async (action: JsonObject) =>
  'os-stop' in action ? 'SHUTOFF' : 'suspend' in action ? 'SUSPENDED' : 'ACTIVE';
const running = async () => {};

const cases: Readonly<Record<string, Case>> = {
  'start-server': {
    prepare: reach('SHUTOFF', { 'os-stop': null }),
    request: act({ 'os-start': null }),
    ends: 'ACTIVE',
    inner: ['operations.recorded', 'keys.lend.leased', 'agent.start-server.started'],
  },
  'stop-server': {
    prepare: running,
    request: act({ 'os-stop': null }),
    ends: 'SHUTOFF',
    inner: ['agent.stop-server.ended'],
  },
  'suspend-server': {
    prepare: running,
    request: act({ suspend: null }),
    ends: 'SUSPENDED',
    inner: [
      'keys.create-key.stored',
      'agent.create-disk.formatted',
      'steps.create-disks.made',
      'agent.suspend-server.saved',
    ],
  },
  'resume-server': {
    prepare: reach('SUSPENDED', { suspend: null }),
    request: act({ resume: null }),
    ends: 'ACTIVE',
    inner: ['agent.restore-server.restored', 'agent.destroy-disk.header-destroyed', 'steps.destroy-disks.removed'],
  },
  'pause-server': { prepare: running, request: act({ pause: null }), ends: 'PAUSED', inner: [] },
  'unpause-server': {
    prepare: reach('PAUSED', { pause: null }),
    request: act({ unpause: null }),
    ends: 'ACTIVE',
    inner: [],
  },
  'reboot-server-soft': {
    prepare: running,
    request: act({ reboot: { type: 'SOFT' } }),
    ends: 'ACTIVE',
    inner: ['agent.stop-server.ended'],
  },
  'reboot-server-hard': {
    prepare: reach('SUSPENDED', { suspend: null }),
    request: act({ reboot: { type: 'HARD' } }),
    ends: 'ACTIVE',
    inner: ['agent.start-server.started'],
  },
  'delete-server': {
    prepare: running,
    request: (cloud, id) => cloud.expect('compute', 'DELETE', `/v2.1/servers/${id}`),
    ends: null,
    inner: [
      'agent.destroy-disk.header-destroyed',
      'steps.destroy-disks.removed',
      'keys.destroy-key.destroyed',
      'operations.recorded',
    ],
  },
};

/** Crash points of creation, which has no server before it. */
const createPoints: readonly InnerCrashPoint[] = [
  'operations.recorded',
  'keys.create-key.stored',
  'keys.lend.leased',
  'agent.create-disk.allocated',
  'agent.create-disk.formatted',
  'steps.create-disks.made',
  'agent.start-server.started',
];

const isWhole = process.env.NIGHTLATCH_TEST_DEPTH === 'all';

/** The crash points of an operation: two for each step, and those inside steps. */
function pointsOf(operation: string, inner: readonly string[]): string[] {
  const steps = serverOperations({} as OperationContext).find(({ name }) => name === operation)?.steps;
  assert.ok(steps, `there is no operation ${operation}`);
  const outer = steps.flatMap(({ name }) => [`${operation}.${name}.before`, `${operation}.${name}.after`]);
  // The covering depth takes the inner points, and of the outer ones those after a step that had an effect.
  return isWhole
    ? [...outer, ...inner]
    : [...inner.slice(-2), ...outer.filter((name) => name.endsWith('.after')).slice(-2, -1)];
}

describe('a crash at any point', { timeout: 3_600_000 }, () => {
  let service: TestService;
  let cloud: CloudClient;
  let flavor: string;
  let image: string;

  before(async () => {
    service = await TestService.start({ shutdownTimeout: 5 });
    cloud = await service.client();
    const disk = join(service.directory, 'boot.raw');
    await writeFile(disk, Buffer.concat([bootSector(), Buffer.alloc(1024 * 1024 - 512)]));
    image = await cloud.uploadImage('boot', disk, 'raw');
    const body = { flavor: { name: 'tiny', ram: 64, vcpus: 1, disk: 1, swap: 8 } };
    flavor = (await cloud.expect('compute', 'POST', '/v2.1/flavors', { body })).flavor.id;
    const extra_specs = { 'hw:ephemeral_encryption': 'true', 'hw:ephemeral_encryption_format': 'luks' };
    await cloud.expect('compute', 'POST', `/v2.1/flavors/${flavor}/os-extra_specs`, { body: { extra_specs } });
  });
  after(() => service[Symbol.asyncDispose]());

  const create = async (name: string): Promise<string> => {
    const server = { name, imageRef: image, flavorRef: flavor, networks: 'none', config_drive: true };
    return (await cloud.expect('compute', 'POST', '/v2.1/servers', { body: { server } })).server.id;
  };

  /** Kills the service at the point while it serves the request, and starts it again. */
  const crashAt = async (point: string, request: () => Promise<unknown>): Promise<void> => {
    await service.end('SIGKILL');
    await service.launch({ NIGHTLATCH_CRASH_AT: point });
    cloud = await service.client();
    // The answer may never come: the process can be dead before it is sent.
    await request().catch(() => {});
    await service.ended(30_000);
    await service.launch();
    cloud = await service.client();
  };

  const remove = async (id: string): Promise<void> => {
    await cloud.expect('compute', 'DELETE', `/v2.1/servers/${id}`);
    await cloud.waitUntilGone(id);
    assert.deepEqual(await findStrays(service), []);
  };

  for (const point of pointsOf('create-server', createPoints)) {
    test(`create-server, killed at ${point}: the server is there and boots`, async () => {
      const name = `create ${point}`;
      await crashAt(point, () => create(name));
      const id = (await cloud.expect('compute', 'GET', '/v2.1/servers')).servers[0]?.id;
      assert.ok(id, 'the server was lost');
      await cloud.waitForStatus(id, 'ACTIVE');
      assert.deepEqual(await findStrays(service), []);
      await expectBooted(cloud, id);
      await remove(id);
    });
  }

  for (const [operation, { prepare, request, ends, inner }] of Object.entries(cases)) {
    for (const point of pointsOf(operation, inner)) {
      test(`${operation}, killed at ${point}: it ends as asked, with nothing left over`, async () => {
        const id = await create(`${operation} ${point}`);
        await cloud.waitForStatus(id, 'ACTIVE');
        const next = await expectBooted(cloud, id);
        await prepare(cloud, id);
        await crashAt(point, () => request(cloud, id));
        if (ends === null) {
          await cloud.waitUntilGone(id);
          assert.deepEqual(await findStrays(service), []);
          return;
        }
        await cloud.waitForStatus(id, ends);
        assert.deepEqual(await findStrays(service), []);
        const keepsMemory = ['suspend', 'resume', 'pause', 'unpause'].some((word) => operation.startsWith(word));
        await bringBack(cloud, id, ends);
        if (keepsMemory) await expectLetter(cloud, id, next);
        else await expectBooted(cloud, id);
        await remove(id);
      });
    }
  }
});

/** Makes a server's guest run, whatever state it is in. */
async function bringBack(cloud: CloudClient, id: string, status: string): Promise<void> {
  const action = { SHUTOFF: 'os-start', SUSPENDED: 'resume', PAUSED: 'unpause' }[status];
  if (!action) return;
  await cloud.act(id, { [action]: null });
  await cloud.waitForStatus(id, 'ACTIVE');
}

/**
 * A guest that was just booted answers, which it can only when its disk was opened with the right key. Returns the
 * letter it will answer next.
 */
async function expectBooted(cloud: CloudClient, id: string): Promise<string> {
  using guest = await GuestConsole.open(await cloud.serialConsoleUrl(id));
  for (let attempt = 1; ; attempt++) {
    try {
      const [letter] = await guest.exchange('n', /[a-z]/, 2000);
      return String.fromCharCode(letter.charCodeAt(0) + 1);
    } catch (error) {
      // What is sent while the firmware still has the serial port is lost.
      if (attempt === 10) throw error;
    }
  }
}

/** The guest goes on counting from where its memory was: nobody has restarted it. */
async function expectLetter(cloud: CloudClient, id: string, letter: string): Promise<void> {
  using guest = await GuestConsole.open(await cloud.serialConsoleUrl(id));
  const [answered] = await guest.exchange('n', /[a-z]/);
  assert.equal(answered, letter, 'the memory of the guest is another');
}
