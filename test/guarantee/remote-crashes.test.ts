import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import type { CloudClient, JsonObject } from '#cli/cloud/client.ts';
import { CrashLab } from '#test/support/crash-lab.ts';
import { enrollWith, FarHost } from '#test/support/far-host.ts';
import { findStrays } from '#test/support/strays.ts';
import { waitUntil } from '#test/support/wait.ts';

/*
 * Control plane and host are two processes: either is killed in the middle of operations, the other lives on. The
 * operation then ends as asked, nothing is left over, every disk still opens.
 */

type Case = {
  /** Brings a running server into the state from which the operation starts. */
  readonly prepare?: { readonly action: JsonObject; readonly status: string };
  readonly request: (cloud: CloudClient, id: string) => Promise<unknown>;
  /** Status once the operation has finished; null: the server is gone. */
  readonly ends: string | null;
  readonly agentPoints: readonly string[];
  readonly servicePoints: readonly string[];
  /** Whether the guest goes on from where its memory was. */
  readonly keepsMemory?: boolean;
};

const act = (action: JsonObject) => (cloud: CloudClient, id: string) => cloud.act(id, action);
const cases: Readonly<Record<string, Case>> = {
  start: {
    prepare: { action: { 'os-stop': null }, status: 'SHUTOFF' },
    request: act({ 'os-start': null }),
    ends: 'ACTIVE',
    agentPoints: ['agent.start-server.started'],
    servicePoints: ['keys.lend.leased', 'start-server.start.after'],
  },
  stop: {
    request: act({ 'os-stop': null }),
    ends: 'SHUTOFF',
    agentPoints: ['agent.stop-server.ended'],
    servicePoints: ['stop-server.stop.before', 'stop-server.stop.after'],
  },
  suspend: {
    request: act({ suspend: null }),
    ends: 'SUSPENDED',
    agentPoints: ['agent.create-disk.formatted', 'agent.suspend-server.saved'],
    servicePoints: ['steps.create-disks.made', 'suspend-server.save.after'],
    keepsMemory: true,
  },
  resume: {
    prepare: { action: { suspend: null }, status: 'SUSPENDED' },
    request: act({ resume: null }),
    ends: 'ACTIVE',
    agentPoints: ['agent.restore-server.restored', 'agent.destroy-disk.header-destroyed'],
    servicePoints: ['resume-server.restore.after'],
    keepsMemory: true,
  },
  delete: {
    request: (cloud, id) => cloud.expect('compute', 'DELETE', `/v2.1/servers/${id}`),
    ends: null,
    agentPoints: ['agent.destroy-disk.header-destroyed'],
    servicePoints: ['steps.destroy-disks.removed'],
  },
};
const createPoints = ['agent.create-disk.allocated', 'agent.create-disk.formatted', 'agent.start-server.started'];

const isWhole = process.env.NIGHTLATCH_TEST_DEPTH !== 'covering';
/** All of it takes minutes; `npm test` kills the agent once, in scenario/remote-host. */
const describeWhole = isWhole ? describe : () => {};

describeWhole('a host or its control plane killed in the middle', { timeout: 3_600_000 }, () => {
  let lab: CrashLab;
  let host: FarHost;
  before(async () => {
    lab = await CrashLab.open({ shutdownTimeout: 5, localHost: false });
    host = await FarHost.start(enrollWith(lab.service));
    await isUp();
  });
  after(async () => {
    await host?.[Symbol.asyncDispose]();
    await lab?.[Symbol.asyncDispose]();
  });

  const isUp = () =>
    waitUntil(
      'the host is up',
      async () => (await lab.cloud.expect('compute', 'GET', '/v2.1/os-services')).services[0]?.state === 'up',
      60_000,
    );
  const noStrays = async () => assert.deepEqual(await findStrays(lab.service, host.stateDirectory), []);

  /** Kills the agent at the point while the service asks for something; then starts it again. */
  async function crashAgentAt(point: string, request: () => Promise<unknown>): Promise<void> {
    await host.end('SIGKILL');
    await host.launch({ NIGHTLATCH_CRASH_AT: point });
    await isConnected();
    await request();
    await host.ended(60_000);
    await host.launch();
  }

  async function isConnected(): Promise<void> {
    const told = async () => (await lab.service.log()).trimEnd().split('\n');
    const last = async () => (await told()).findLast((line) => /host far is (up|down)/.test(line)) ?? '';
    await waitUntil('the service is connected', async () => (await last()).includes('host far is up'), 60_000);
    // Only then are servers sent there.
    await isUp();
  }

  async function create(): Promise<string> {
    const id = await lab.create('one');
    await lab.cloud.waitForStatus(id, 'ACTIVE');
    return id;
  }

  async function remove(id: string): Promise<void> {
    await lab.cloud.expect('compute', 'DELETE', `/v2.1/servers/${id}`);
    await lab.cloud.waitUntilGone(id);
    await noStrays();
  }

  async function prove(one: Case, crash: (request: () => Promise<unknown>) => Promise<void>): Promise<void> {
    const id = await create();
    const letter = await lab.expectBooted(id);
    if (one.prepare) {
      await lab.cloud.act(id, one.prepare.action);
      await lab.cloud.waitForStatus(id, one.prepare.status);
    }
    await crash(() => one.request(lab.cloud, id));
    if (one.ends === null) {
      await lab.cloud.waitUntilGone(id);
      return await noStrays();
    }
    await lab.cloud.waitForStatus(id, one.ends);
    await noStrays();
    const back = { SHUTOFF: 'os-start', SUSPENDED: 'resume' }[one.ends];
    if (back) await lab.cloud.act(id, { [back]: null });
    await lab.cloud.waitForStatus(id, 'ACTIVE');
    if (one.keepsMemory) await lab.expectLetter(id, letter);
    else await lab.expectBooted(id);
    await remove(id);
  }

  for (const point of createPoints) {
    test(`create, the host killed at ${point}: the server is there and boots`, async () => {
      let id = '';
      await crashAgentAt(point, async () => {
        id = await lab.create('young');
      });
      await lab.cloud.waitForStatus(id, 'ACTIVE');
      await noStrays();
      await lab.expectBooted(id);
      await remove(id);
    });
  }

  for (const [name, one] of Object.entries(cases)) {
    for (const point of one.agentPoints) {
      test(`${name}, the host killed at ${point}: it ends as asked, with nothing left over`, () =>
        prove(one, (request) => crashAgentAt(point, request)));
    }
    for (const point of one.servicePoints) {
      test(`${name}, the control plane killed at ${point}: it ends as asked, with nothing left over`, () =>
        prove(one, (request) => lab.crashAt(point, request)));
    }
  }
});
