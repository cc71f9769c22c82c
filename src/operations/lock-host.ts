import { setTimeout as delay } from 'node:timers/promises';
import { NightlatchError } from '#core/errors.ts';
import type { HostName } from '#core/ids.ts';
import { shouldRun } from '#core/server.ts';
import { type Server, serversInOperation, serversOnHost, stateOf } from '#db/servers.ts';
import { snapshotsInOperation } from '#db/snapshots.ts';
import { volumesInOperation } from '#db/volumes.ts';
import { liveLeases } from '#keys/leases.ts';
import type { OperationContext } from '#operations/context.ts';
import type { HostFollower } from '#operations/follow-host.ts';
import type { HostOperations } from '#operations/host-operations.ts';
import type { ServerOperations } from '#operations/server-operations.ts';

type Parts = {
  readonly context: OperationContext;
  readonly operations: { act: (...args: Parameters<ServerOperations['act']>) => Promise<void> };
  readonly follower: HostFollower;
};

/** Undoing what a lock cut short may be tried for about a minute. */
const SETTLE_TIMEOUT_MS = 120_000;
const LOOK_INTERVAL_MS = 200;

/**
 * Locks hosts. It is no operation of the engine's, because it must not wait for anything that the engine waits for:
 *
 * | step       | effect                                                     | a crash after it                        |
 * |------------|------------------------------------------------------------|-----------------------------------------|
 * | lock down  | nothing is unlocked on the host, and nothing new can be    | the next start of the service goes on   |
 * | settle     | operations under way have failed and taken back what they did; servers are SHUTOFF, leases closed | same |
 * | lift       | servers can be started again                               | –                                       |
 */
export class HostLocker implements HostOperations {
  readonly #parts: Parts;
  readonly #underWay = new Map<HostName, Promise<void>>();

  constructor(parts: Parts) {
    this.#parts = parts;
  }

  async lock(host: HostName, requestId: string, tell: (line: string) => void): Promise<void> {
    const other = this.#underWay.get(host);
    if (other !== undefined) {
      tell('it is being locked already');
      return await other;
    }
    const mine = this.#lock(host, requestId, tell).finally(() => this.#underWay.delete(host));
    this.#underWay.set(host, mine);
    await mine;
  }

  /** Goes on with a lock that the end of the service cut short, or that was made while no service ran. */
  async finish(host: HostName, requestId: string, tell: (line: string) => void): Promise<void> {
    if (await this.#parts.context.agent(host).isLockedDown()) await this.lock(host, requestId, tell);
  }

  async #lock(host: HostName, requestId: string, tell: (line: string) => void): Promise<void> {
    const { context, follower } = this.#parts;
    const agent = context.agent(host);
    tell('ending every guest, locking every disk');
    await agent.lockDown();
    tell('no guest runs, no disk is unlocked; settling servers');
    await this.#settle(host, requestId, tell);
    await follower.reconcile(host, agent);
    const leases = (await liveLeases(context.db)).filter((lease) => lease.host === host);
    if (leases.length > 0) throw notLocked(host, `leases of disks ${leases.map((lease) => lease.disk_id).join(', ')}`);
    await agent.liftLockDown();
    tell('every server is settled, every lease closed');
  }

  /** Until no operation is under way that could unlock anything on this host, and no server is called running. */
  async #settle(host: HostName, requestId: string, tell: (line: string) => void): Promise<void> {
    const deadline = Date.now() + SETTLE_TIMEOUT_MS;
    let told = 0;
    for (;;) {
      const { busy, odd } = await this.#unsettled(host);
      const count = busy.length + odd.length;
      if (count === 0) return;
      if (count !== told) tell(`servers and volumes to settle: ${count}`);
      told = count;
      if (Date.now() > deadline) {
        throw notLocked(host, `operations on ${busy.join(', ')} have not ended`);
      }
      for (const server of odd) await this.#settleServer(server, requestId);
      await delay(LOOK_INTERVAL_MS);
    }
  }

  /** What is still being given a host counts: this one may be it. */
  async #unsettled(host: HostName): Promise<{ busy: string[]; odd: Server[] }> {
    const { db } = this.#parts.context;
    const mayBeHere = (thing: { readonly host: HostName | null }) => thing.host === null || thing.host === host;
    const servers = (await serversInOperation(db)).filter(mayBeHere).map(({ id }) => `server ${id}`);
    const volumes = (await volumesInOperation(db)).filter(mayBeHere).map(({ id }) => `volume ${id}`);
    const snapshots = (await snapshotsInOperation(db)).map(({ id }) => `snapshot ${id}`);
    const here = await serversOnHost(db, host);
    const busy = [...servers, ...volumes, ...snapshots];
    return { busy, odd: here.filter((server) => server.operation === null && shouldRun(stateOf(server))) };
  }

  /** Whoever follows the host may be quicker. */
  async #settleServer({ id, user_id, project_id }: Server, requestId: string): Promise<void> {
    try {
      await this.#parts.operations.act('settle', id, { requestId, userId: user_id, projectId: project_id });
    } catch (error) {
      const isTaken = error instanceof NightlatchError && ['server-state', 'not-found'].includes(error.code);
      if (!isTaken) throw error;
    }
  }
}

function notLocked(host: HostName, reason: string): NightlatchError {
  return new NightlatchError('host-not-locked', { host, reason });
}
