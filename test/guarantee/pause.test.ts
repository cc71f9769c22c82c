import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { NightlatchError } from '#core/errors.ts';
import {
  type DiskId,
  type HostName,
  newId,
  type ProjectId,
  type SecretId,
  type ServerId,
  type UserId,
} from '#core/ids.ts';
import { Secret } from '#core/secret.ts';
import { asDisk, disksOf, insertDisks } from '#db/disks.ts';
import { claimServer, findServer, insertServer } from '#db/servers.ts';
import type { HostAgent } from '#host/host-agent.ts';
import { KeyService } from '#keys/key-service.ts';
import type { KeyStore } from '#keys/key-store.ts';
import { liveLeases } from '#keys/leases.ts';
import type { OperationContext, ServerInput } from '#operations/context.ts';
import type { Operation } from '#operations/engine.ts';
import { pauseServer, unpauseServer } from '#operations/power-server.ts';
import { startTestDatabase, type TestDatabase } from '#test/support/database.ts';

/*
 * "No key without a lease", for a host that forgets the keys of paused servers: their leases are closed once the keys are
 * gone, and open again before one is back. The host is a fake that looks at the leases whenever it is called; that a real
 * kernel forgets and takes back keys is shown in one.
 */

const HOST = 'testhost' as HostName;
let database: TestDatabase;
before(async () => {
  database = await startTestDatabase();
});
after(() => database[Symbol.asyncDispose]());

/** A host with one active server of two encrypted disks. */
class FakeHost {
  readonly serverId = newId<ServerId>();
  /** What it was asked, each with the leases that were open then. */
  readonly calls: string[] = [];
  state: 'running' | 'paused' = 'running';
  readonly locked = new Set<DiskId>();
  readonly #forgets: boolean;
  failAt: string | null = null;

  constructor({ forgets }: { forgets: boolean }) {
    this.#forgets = forgets;
  }

  async #called(name: string): Promise<void> {
    this.calls.push(`${name}, ${(await liveLeases(database.db)).length} leases`);
    if (this.failAt === name) throw new NightlatchError('hypervisor-failed', { doing: name, reason: 'told to fail' });
  }

  get agent(): HostAgent {
    const fake: Partial<HostAgent> = {
      pauseServer: async () => {
        await this.#called('pause');
        this.state = 'paused';
      },
      lockPaused: async (_, disks) => {
        if (this.#forgets) for (const { id } of disks) this.locked.add(id);
        await this.#called('lock');
        return [...this.locked];
      },
      lockedWhilePaused: async () => [...this.locked],
      unlockPaused: async (disks, keys) => {
        await this.#called('unlock');
        assert.deepEqual([...keys.keys()].sort(), disks.map(({ id }) => id).sort());
        for (const { id } of disks) this.locked.delete(id);
      },
      unpauseServer: async () => {
        await this.#called('unpause');
        assert.equal(this.locked.size, 0, 'the guest goes on over locked disks');
        this.state = 'running';
      },
      guests: async () => [{ id: this.serverId, state: this.state }],
    };
    return fake as HostAgent;
  }
}

async function labWith(options: { forgets: boolean }) {
  const { db } = database;
  await db.deleteFrom('leases').execute();
  const host = new FakeHost(options);
  const { serverId } = host;
  const owner = {
    project_id: 'p' as ProjectId,
    user_id: 'u' as UserId,
    name: 'box',
    description: null,
    image_id: null,
  };
  await insertServer(db, {
    ...owner,
    id: serverId,
    flavor: JSON.stringify({ vcpus: 1, ramMib: 64, rootGib: 1, ephemeralGib: 1, swapMib: 0 }),
    metadata: '{}',
    user_data: null,
    config_drive: false,
    network: 'none',
    key_name: null,
    reservation_id: 'r',
    vm_state: 'active',
    task_state: null,
    power_state: 'running',
    host: HOST,
    fault: null,
    operation: null,
    updated_at: new Date(),
  });
  const facts = { owner_id: serverId, project_id: 'p' as ProjectId, ordinal: 0, size_bytes: 512, host: HOST } as const;
  const kind = { storage: 'lvm', encryption: 'luksv2', encrypted: true, image_id: null, state: 'formatted' } as const;
  for (const role of ['root', 'ephemeral'] as const) {
    await insertDisks(db, [{ ...facts, ...kind, id: newId<DiskId>(), role, secret_id: newId<SecretId>() }]);
  }
  const store = { get: async () => Secret.generate() } as unknown as KeyStore;
  const keys = new KeyService(db, store);
  const context = { db, keys, agent: () => host.agent } as unknown as OperationContext;
  await keys.lend((await disksOf(db, serverId)).map(asDisk), 'run', 'req', async () => {});
  return { host, context, serverId };
}
type Lab = Awaited<ReturnType<typeof labWith>>;

/** As the engine runs it, without a second try. */
async function perform({ serverId }: Lab, action: 'pause' | 'unpause', operation: Operation<ServerInput>) {
  const input: ServerInput = { serverId, operationId: 'op', requestId: 'req', after: null };
  await claimServer(database.db, serverId, action, () => ({ id: 'op', name: operation.name, input }));
  const begun = [];
  for (const step of operation.steps) {
    begun.unshift(step);
    try {
      await step.run(input);
    } catch (error) {
      for (const done of begun) await done.undo?.(input);
      const { code, status, message } = error as NightlatchError;
      await operation.failed(input, { code, status, message });
      break;
    }
  }
  const server = await findServer(database.db, serverId);
  return { state: server?.vm_state, fault: server?.fault?.message, leases: (await liveLeases(database.db)).length };
}

describe('pausing on a host that forgets keys meanwhile', () => {
  it('closes the leases once the keys are gone, and opens them before the keys are back', async () => {
    const lab = await labWith({ forgets: true });
    const paused = await perform(lab, 'pause', pauseServer(lab.context));
    assert.deepEqual(paused, { state: 'paused', fault: undefined, leases: 0 });
    const unpaused = await perform(lab, 'unpause', unpauseServer(lab.context));
    assert.deepEqual(unpaused, { state: 'active', fault: undefined, leases: 2 });
    const calls = ['pause, 2 leases', 'lock, 2 leases', 'unlock, 2 leases', 'unpause, 2 leases'];
    assert.deepEqual(lab.host.calls, calls);
  });

  it('lets the guest run on, with its keys, when a key cannot be wiped', async () => {
    const lab = await labWith({ forgets: true });
    lab.host.failAt = 'lock';
    const { state, fault, leases } = await perform(lab, 'pause', pauseServer(lab.context));
    assert.deepEqual([state, leases, lab.host.locked.size], ['active', 2, 0]);
    assert.match(fault ?? '', /told to fail/);
  });

  it('stays paused, and locked, when the guest cannot go on', async () => {
    const lab = await labWith({ forgets: true });
    await perform(lab, 'pause', pauseServer(lab.context));
    lab.host.failAt = 'unpause';
    const { state, fault, leases } = await perform(lab, 'unpause', unpauseServer(lab.context));
    assert.deepEqual([state, leases, lab.host.locked.size], ['paused', 0, 2]);
    assert.match(fault ?? '', /told to fail/);
  });
});

describe('pausing on any other host', () => {
  it('leaves keys and leases as they are', async () => {
    const lab = await labWith({ forgets: false });
    assert.equal((await perform(lab, 'pause', pauseServer(lab.context))).leases, 2);
    assert.deepEqual(await perform(lab, 'unpause', unpauseServer(lab.context)), {
      state: 'active',
      fault: undefined,
      leases: 2,
    });
    assert.deepEqual(lab.host.calls, ['pause, 2 leases', 'lock, 2 leases', 'unpause, 2 leases']);
  });
});
