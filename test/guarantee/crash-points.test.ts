import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import type { CloudClient, JsonObject } from '#cli/cloud/client.ts';
import type { InnerCrashPoint } from '#core/crash-point.ts';
import type { OperationContext } from '#operations/context.ts';
import { serverOperations } from '#operations/durable-server-operations.ts';
import { CrashLab } from '#test/support/crash-lab.ts';

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
  /** Once its guest runs again, the server is as it was before. */
  readonly leavesServer?: true;
  /** The points of the covering depth; the last inner ones, and a step near the end, where it does not say. */
  readonly covering?: readonly string[];
  /** What else must hold then; it leaves nothing. */
  readonly check?: (lab: CrashLab, id: string) => Promise<void>;
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
    leavesServer: true,
    ends: 'ACTIVE',
    inner: ['operations.recorded', 'keys.lend.leased', 'agent.start-server.started'],
  },
  'stop-server': {
    prepare: running,
    request: act({ 'os-stop': null }),
    leavesServer: true,
    ends: 'SHUTOFF',
    inner: ['agent.stop-server.ended'],
  },
  'suspend-server': {
    prepare: running,
    request: act({ suspend: null }),
    leavesServer: true,
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
    leavesServer: true,
    ends: 'ACTIVE',
    inner: ['agent.restore-server.restored', 'agent.destroy-disk.header-destroyed', 'steps.destroy-disks.removed'],
  },
  'pause-server': { prepare: running, request: act({ pause: null }), leavesServer: true, ends: 'PAUSED', inner: [] },
  'unpause-server': {
    prepare: reach('PAUSED', { pause: null }),
    request: act({ unpause: null }),
    leavesServer: true,
    ends: 'ACTIVE',
    inner: [],
  },
  'reboot-server-soft': {
    prepare: running,
    request: act({ reboot: { type: 'SOFT' } }),
    leavesServer: true,
    ends: 'ACTIVE',
    inner: ['agent.stop-server.ended'],
  },
  'reboot-server-hard': {
    prepare: reach('SUSPENDED', { suspend: null }),
    request: act({ reboot: { type: 'HARD' } }),
    leavesServer: true,
    ends: 'ACTIVE',
    inner: ['agent.start-server.started'],
  },
  'rescue-server': {
    prepare: running,
    request: act({ rescue: null }),
    leavesServer: true,
    ends: 'RESCUE',
    inner: [
      'keys.create-key.stored',
      'steps.create-disks.made',
      'agent.stop-server.ended',
      'agent.start-server.started',
    ],
  },
  'unrescue-server': {
    prepare: reach('RESCUE', { rescue: null }),
    request: act({ unrescue: null }),
    leavesServer: true,
    ends: 'ACTIVE',
    inner: ['agent.stop-server.ended', 'agent.destroy-disk.header-destroyed', 'steps.destroy-disks.removed'],
  },
  'create-image': {
    prepare: running,
    request: act({ createImage: { name: 'copy' } }),
    leavesServer: true,
    ends: 'ACTIVE',
    inner: [
      'operations.recorded',
      'keys.create-key.stored',
      'agent.create-disk.formatted',
      'steps.copy.made',
      'images.upload.saved',
      'steps.destroy-disks.removed',
    ],
    covering: ['create-image.hand-over.after'],
    check: async (lab) => {
      const [image] = (await lab.cloud.expect('image', 'GET', '/v2/images?name=copy')).images;
      assert.equal(image?.status, 'active', 'the image was lost');
      const id = await lab.create('from the copy', image.id);
      await lab.cloud.waitForStatus(id, 'ACTIVE');
      await lab.expectBooted(id);
      await lab.remove(id);
      await lab.cloud.expect('image', 'DELETE', `/v2/images/${image.id}`);
      await lab.expectNoStrays();
    },
  },
  'shelve-server': {
    prepare: running,
    request: act({ shelve: null }),
    leavesServer: true,
    ends: 'SHELVED',
    inner: ['agent.stop-server.ended', 'keys.create-key.stored', 'steps.copy.made', 'images.upload.saved'],
    covering: [],
  },
  'shelve-offload-server': {
    prepare: reach('SHELVED', { shelve: null }),
    request: act({ shelveOffload: null }),
    leavesServer: true,
    ends: 'SHELVED_OFFLOADED',
    inner: ['agent.destroy-disk.header-destroyed', 'steps.destroy-disks.removed', 'keys.destroy-key.destroyed'],
    covering: [],
  },
  'unshelve-server': {
    prepare: async (cloud, id) => {
      await reach('SHELVED', { shelve: null })(cloud, id);
      await reach('SHELVED_OFFLOADED', { shelveOffload: null })(cloud, id);
    },
    request: act({ unshelve: null }),
    leavesServer: true,
    ends: 'ACTIVE',
    inner: [
      'keys.create-key.stored',
      'agent.create-disk.formatted',
      'agent.start-server.started',
      'images.delete.marked',
    ],
    covering: ['images.delete.marked'],
  },
  'resize-server': {
    prepare: running,
    request: act({ resize: { flavorRef: 'larger' } }),
    ends: 'VERIFY_RESIZE',
    inner: [
      'operations.recorded',
      'keys.create-key.stored',
      'keys.lend.leased',
      'agent.create-disk.allocated',
      'agent.create-disk.formatted',
      'steps.create-disks.made',
      'agent.stop-server.ended',
      'agent.start-server.started',
    ],
    covering: ['resize-server.exchange.after'],
  },
  'confirm-resize': {
    prepare: reach('VERIFY_RESIZE', { resize: { flavorRef: 'larger' } }),
    request: act({ confirmResize: null }),
    ends: 'ACTIVE',
    inner: ['agent.destroy-disk.header-destroyed', 'steps.destroy-disks.removed', 'keys.destroy-key.destroyed'],
    covering: [],
  },
  'revert-resize': {
    prepare: reach('VERIFY_RESIZE', { resize: { flavorRef: 'larger' } }),
    request: act({ revertResize: null }),
    leavesServer: true,
    ends: 'ACTIVE',
    inner: [
      'agent.stop-server.ended',
      'agent.destroy-disk.header-destroyed',
      'steps.destroy-disks.removed',
      'agent.start-server.started',
    ],
    covering: ['revert-resize.exchange.after'],
  },
  'rebuild-server': {
    prepare: running,
    request: async (cloud, id) => cloud.act(id, { rebuild: { imageRef: (await cloud.server(id)).image.id } }),
    leavesServer: true,
    ends: 'ACTIVE',
    inner: [
      'keys.create-key.stored',
      'agent.create-disk.formatted',
      'steps.create-disks.made',
      'agent.stop-server.ended',
      'steps.destroy-disks.removed',
      'agent.start-server.started',
    ],
    covering: ['rebuild-server.exchange.after'],
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
function pointsOf(operation: string, inner: readonly string[], covering?: readonly string[]): string[] {
  const steps = serverOperations({} as OperationContext).find(({ name }) => name === operation)?.steps;
  assert.ok(steps, `there is no operation ${operation}`);
  const outer = steps.flatMap(({ name }) => [`${operation}.${name}.before`, `${operation}.${name}.after`]);
  // The covering depth takes the inner points, and of the outer ones those after a step that had an effect.
  if (isWhole) return [...outer, ...inner];
  return covering
    ? [...covering]
    : [...inner.slice(-2), ...outer.filter((name) => name.endsWith('.after')).slice(-2, -1)];
}

describe('a crash at any point', { timeout: 21_600_000 }, () => {
  let lab: CrashLab;
  before(async () => {
    lab = await CrashLab.open({ defaults: 'shelved_offload_time = -1' });
  });
  after(() => lab[Symbol.asyncDispose]());

  for (const point of pointsOf('create-server', createPoints)) {
    test(`create-server, killed at ${point}: the server is there and boots`, async () => {
      await lab.crashAt(point, () => lab.create(`create ${point}`));
      const id = (await lab.cloud.expect('compute', 'GET', '/v2.1/servers')).servers[0]?.id;
      assert.ok(id, 'the server was lost');
      await lab.cloud.waitForStatus(id, 'ACTIVE');
      await lab.expectNoStrays();
      await lab.expectBooted(id);
      await lab.remove(id);
    });
  }

  for (const [operation, { prepare, request, ends, inner, leavesServer, covering, check }] of Object.entries(cases)) {
    for (const point of pointsOf(operation, inner, covering)) {
      test(`${operation}, killed at ${point}: it ends as asked, with nothing left over`, async () => {
        const id = await lab.take(`${operation} ${point}`);
        const next = await lab.expectBooted(id);
        await prepare(lab.cloud, id);
        await lab.crashAt(point, () => request(lab.cloud, id));
        if (ends === null) {
          await lab.cloud.waitUntilGone(id);
          await lab.expectNoStrays();
          return;
        }
        await lab.cloud.waitForStatus(id, ends);
        await lab.expectNoStrays();
        await check?.(lab, id);
        await bringBack(lab.cloud, id, ends);
        const keepsMemory = ['suspend', 'resume', 'pause', 'unpause'].some((word) => operation.startsWith(word));
        if (keepsMemory) await lab.expectLetter(id, next);
        else await lab.expectBooted(id);
        if (leavesServer) await lab.giveBack(id);
        else await lab.remove(id);
      });
    }
  }
});

/** Makes a server's guest run, whatever state it is in. */
async function bringBack(cloud: CloudClient, id: string, status: string): Promise<void> {
  const actions: Readonly<Record<string, string>> = {
    SHUTOFF: 'os-start',
    SUSPENDED: 'resume',
    PAUSED: 'unpause',
    RESCUE: 'unrescue',
    SHELVED: 'unshelve',
    SHELVED_OFFLOADED: 'unshelve',
  };
  const action = actions[status];
  if (!action) return;
  await cloud.act(id, { [action]: null });
  await cloud.waitForStatus(id, 'ACTIVE');
}
