import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { type HostName, newId, type ProjectId, type ServerId, type UserId } from '#core/ids.ts';
import type { VmState } from '#core/server.ts';
import { claimServer, findServer, insertServer } from '#db/servers.ts';
import type { HostAgent, HostGuest } from '#host/host-agent.ts';
import { KeyService } from '#keys/key-service.ts';
import type { KeyStore } from '#keys/key-store.ts';
import type { OperationContext, ServerInput } from '#operations/context.ts';
import { settleServer } from '#operations/power-server.ts';
import { VolumeHolds } from '#operations/volume-holds.ts';
import { startTestDatabase, type TestDatabase } from '#test/support/database.ts';

/*
 * Whoever finds a server's state and its host at odds may have looked a moment too early. The settling looks again when
 * nothing else can happen to the server, and only that look ends a guest. The host is a fake, because the moment cannot be
 * had from a real one.
 */

const HOST = 'testhost' as HostName;
let database: TestDatabase;
before(async () => {
  database = await startTestDatabase();
});
after(() => database[Symbol.asyncDispose]());

/** Settles a server in this state whose guest the host shows, or not; returns what became of both. */
async function settled(state: VmState, guest: 'running' | 'paused' | null) {
  const { db } = database;
  const serverId = newId<ServerId>();
  await insertServer(db, {
    id: serverId,
    project_id: 'p' as ProjectId,
    user_id: 'u' as UserId,
    name: 'box',
    description: null,
    image_id: null,
    flavor: JSON.stringify({ vcpus: 1, ramMib: 64, rootGib: 1, ephemeralGib: 0, swapMib: 0 }),
    metadata: '{}',
    user_data: null,
    config_drive: false,
    network: 'none',
    key_name: null,
    reservation_id: 'r',
    vm_state: state,
    task_state: null,
    power_state: 'running',
    host: HOST,
    fault: null,
    operation: null,
    updated_at: new Date(),
  });
  const input: ServerInput = { serverId, operationId: 'op', requestId: 'req', after: null };
  await claimServer(db, serverId, 'settle', () => ({ id: 'op', name: 'settle-server', input }));
  let shown = guest;
  const agent = {
    guests: async (): Promise<readonly HostGuest[]> => (shown ? [{ id: serverId, state: shown }] : []),
    stopServer: async () => {
      shown = null;
    },
  } as unknown as HostAgent;
  const keys = new KeyService(db, {} as KeyStore);
  const holds = new VolumeHolds();
  const context = { db, keys, holds, agent: () => agent, shutdownTimeoutMs: 0 } as unknown as OperationContext;
  for (const step of settleServer(context).steps) await step.run(input);
  const server = await findServer(db, serverId);
  assert.equal(server?.operation, null);
  return { state: server?.vm_state, guest: shown };
}

describe('settling a server', () => {
  const cases: [VmState, 'running' | 'paused' | null, VmState, 'running' | 'paused' | null][] = [
    ['active', 'running', 'active', 'running'],
    ['paused', 'paused', 'paused', 'paused'],
    ['active', 'paused', 'paused', 'paused'],
    ['active', null, 'stopped', null],
    ['paused', null, 'stopped', null],
    ['stopped', 'running', 'stopped', null],
    ['stopped', null, 'stopped', null],
    ['error', 'running', 'error', null],
  ];
  for (const [state, guest, endState, endGuest] of cases) {
    it(`that is ${state}, its guest ${guest ?? 'gone'}: ends ${endState}, the guest ${endGuest ?? 'gone'}`, async () => {
      assert.deepEqual(await settled(state, guest), { state: endState, guest: endGuest });
    });
  }
});
