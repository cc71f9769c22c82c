import type { Logger } from 'pino';
import { serverOfDisk } from '#core/disk.ts';
import { describeError, NightlatchError } from '#core/errors.ts';
import type { BackupId, DiskId, HostName, ServerId, SnapshotId, VolumeId } from '#core/ids.ts';
import { type ServerAction, shouldRun } from '#core/server.ts';
import { backupsInOperation, findBackup, releaseBackup } from '#db/backups.ts';
import { findDisk } from '#db/disks.ts';
import { findServer, type Server, serversInOperation, serversOnHost, stateOf } from '#db/servers.ts';
import { findSnapshot, releaseSnapshot, snapshotReaders, snapshotsInOperation } from '#db/snapshots.ts';
import type { PendingOperation } from '#db/tables/columns.ts';
import { attachmentOf } from '#db/volume-attachments.ts';
import { findVolume, readersOf, type Volume, volumesInOperation } from '#db/volumes.ts';
import type { HostAgent, HostEvent } from '#host/host-agent.ts';
import { liveLeases } from '#keys/leases.ts';
import { finishWithFault, type OperationContext, type ServerInput } from '#operations/context.ts';
import type { Engine, Failure } from '#operations/engine.ts';
import type { ServerOperations } from '#operations/server-operations.ts';
import { failVolume, type VolumeInput } from '#operations/volume-context.ts';

type Parts = {
  readonly context: OperationContext;
  readonly engine: Engine;
  readonly operations: Pick<ServerOperations, 'act'>;
  readonly log: Logger;
};

/** An event that libvirt lost is made good after this time at the latest. */
const LOOK_INTERVAL_MS = 10_000;
/** Names the service itself as the requester in the audit trail. */
const OURSELVES = 'req-nightlatch-reconcile';

/**
 * Keeps what is written about a host true: a guest that ends by itself is settled at once, and after a crash of any
 * part what runs keeps its leases and everything else is locked.
 */
export class HostFollower {
  readonly #parts: Parts;
  #toStartAgain = new Set<ServerId>();

  constructor(parts: Parts) {
    this.#parts = parts;
  }

  /** Follows a host's events, and looks now and then, until the returned function is called. */
  follow(name: HostName, agent: HostAgent): () => void {
    const tell = (error: unknown) => {
      // Whoever keeps the connection has told it, once.
      if (error instanceof NightlatchError && error.code === 'host-unavailable') return;
      this.#parts.log.error({ host: name, err: error }, `following host ${name} failed: ${describeError(error)}`);
    };
    const stop = agent.onEvent((event) => this.#handle(name, agent, event).catch(tell));
    const look = () => this.#look(name, agent).catch(tell);
    const timer = setInterval(look, LOOK_INTERVAL_MS);
    return () => {
      clearInterval(timer);
      stop();
    };
  }

  /**
   * Goes on with every operation that a row names and the engine does not know: the process died between the two.
   * One that the engine has ended though its row still waits is given back with a fault.
   */
  async resumeOperations(): Promise<void> {
    const { context } = this.#parts;
    const { db } = context;
    for (const { operation } of await serversInOperation(db)) {
      const giveBack = (failure: Failure) => finishWithFault(context, operation?.input as ServerInput, failure);
      if (operation) await this.#resume(operation, giveBack);
    }
    for (const { operation } of await volumesInOperation(db)) {
      const giveBack = () => failVolume(context, operation?.input as VolumeInput, 'error');
      if (operation) await this.#resume(operation, giveBack);
    }
    for (const { id, operation } of await backupsInOperation(db)) {
      const giveBack = () => releaseBackup(db, id, operation?.id ?? '', { status: 'error' });
      if (operation) await this.#resume(operation, giveBack);
    }
    for (const { id, operation } of await snapshotsInOperation(db)) {
      const giveBack = () => releaseSnapshot(db, id, operation?.id ?? '', { status: 'error' });
      if (operation) await this.#resume(operation, giveBack);
    }
  }

  async #resume(operation: PendingOperation, giveBack: (failure: Failure) => Promise<unknown>): Promise<void> {
    const { engine, log } = this.#parts;
    if (!(await engine.hasEnded(operation.id))) {
      return await engine.start(operation.name, operation.id, operation.input);
    }
    const failure = { code: 'bug', status: 500, message: `The operation ${operation.name} ended without a result.` };
    await giveBack(failure);
    log.error({ operation: operation.id }, failure.message);
  }

  /** From now on, of these servers, one that is found without its guest is started again instead of settled. */
  startAgain(servers: readonly ServerId[]): void {
    this.#toStartAgain = new Set(servers);
  }

  /** Compares all that is written with what the host finds, and mends it. *Repeat*: fine, at any time. */
  async reconcile(name: HostName, agent: HostAgent): Promise<void> {
    const { log } = this.#parts;
    const known = await this.#look(name, agent);
    const inventory = await agent.inventory();
    const running = inventory.servers.map((server) => server.id);
    for (const id of running) if (!known.has(id)) await this.#judgeStrayGuest(name, agent, id);
    await this.#closeStrayLeases(name);
    for (const id of inventory.serversWithDisks) {
      if (known.has(id)) continue;
      // Hosts may share a pool.
      const where = (await findServer(this.#parts.context.db, id))?.host ?? name;
      if (where === name)
        log.warn({ host: name, server: id }, `host ${name} keeps disks of server ${id}, which is not known`);
    }
  }

  /** Settles the servers whose state is not what the host shows. Returns those that are on the host. */
  async #look(name: HostName, agent: HostAgent): Promise<ReadonlyMap<ServerId, Server>> {
    const running = new Set((await agent.guests()).map(({ id }) => id));
    const known = await serversOnHost(this.#parts.context.db, name);
    for (const server of known) {
      if (server.operation !== null) continue;
      if (this.#isOffloadDue(server)) await this.#actUnlessTaken('shelve-offload', server);
      else await this.#settleIfOdd(server, running.has(server.id));
    }
    return new Map(known.map((server) => [server.id, server]));
  }

  /**
   * A deleted server's guest is ended. One that was never heard of is left alone and told to the operator: when an old
   * backup of the database was restored, its memory may hold the only key that opens its disks.
   */
  async #judgeStrayGuest(name: HostName, agent: HostAgent, id: ServerId): Promise<void> {
    const { context, log } = this.#parts;
    const server = await findServer(context.db, id);
    if (server?.vm_state === 'deleted') {
      log.warn({ host: name, server: id }, `ending the guest of deleted server ${id}`);
      await agent.stopServer(id, [], 0);
    } else if (server === null) {
      log.error({ host: name, server: id }, `host ${name} runs a guest of server ${id}, which is not in the database`);
    }
  }

  async #handle(name: HostName, agent: HostAgent, event: HostEvent): Promise<void> {
    if (event.kind === 'server-ended') return await this.#followEnd(event.serverId, agent);
    // What ended while the host could not be asked how its server is, is given back now.
    await this.resumeOperations();
    await this.reconcile(name, agent);
  }

  /** An operation under way may have ended the guest itself, or may be about to call the server active: wait, look again. */
  async #followEnd(serverId: ServerId, agent: HostAgent): Promise<void> {
    for (;;) {
      const server = await findServer(this.#parts.context.db, serverId);
      if (!server || server.vm_state === 'deleted') return;
      if (server.operation === null) {
        const isRunning = (await agent.guests()).some(({ id }) => id === serverId);
        if (await this.#settleIfOdd(server, isRunning)) return;
      } else {
        await this.#parts.engine.settled(server.operation.id);
      }
    }
  }

  /**
   * What was seen may be old by now: the settling looks again when the server is its own. Returns false when another
   * operation was quicker, so that the caller looks again.
   */
  async #settleIfOdd(server: Server, isRunning: boolean): Promise<boolean> {
    if (shouldRun(stateOf(server)) === isRunning) return true;
    const startsAgain = !isRunning && this.#toStartAgain.delete(server.id);
    return await this.#actUnlessTaken(startsAgain ? 'reboot-hard' : 'settle', server);
  }

  #isOffloadDue({ vm_state, shelved_at, fault }: Server): boolean {
    const { shelvedOffloadSeconds: seconds } = this.#parts.context;
    // One that failed to be offloaded waits for its user.
    if (vm_state !== 'shelved' || shelved_at === null || fault !== null || seconds < 0) return false;
    return Date.now() >= shelved_at.getTime() + seconds * 1000;
  }

  /** Returns false when another operation was quicker. */
  async #actUnlessTaken(action: ServerAction, server: Server): Promise<boolean> {
    try {
      await this.#parts.operations.act(action, server.id, {
        requestId: OURSELVES,
        userId: server.user_id,
        projectId: server.project_id,
      });
      return true;
    } catch (error) {
      if (error instanceof NightlatchError && error.code === 'server-state') return false;
      throw error;
    }
  }

  /** Leases of disks that no guest is to have and nothing is done to: the host was locked before this was called. */
  async #closeStrayLeases(name: HostName): Promise<void> {
    const { context } = this.#parts;
    for (const lease of await liveLeases(context.db)) {
      if (lease.host !== name || (await this.#isInUse(lease.disk_id))) continue;
      await context.keys.close([{ id: lease.disk_id }], OURSELVES);
    }
  }

  async #isInUse(diskId: DiskId): Promise<boolean> {
    const { db } = this.#parts.context;
    const disk = await findDisk(db, diskId);
    if (!disk) return false;
    const isServers = (server: Server | null) =>
      server !== null && (shouldRun(stateOf(server)) || server.operation !== null);
    const serverId = serverOfDisk({ role: disk.role, ownerId: disk.owner_id });
    if (serverId !== null) return isServers(await findServer(db, serverId));
    if (disk.role === 'volume-snapshot') {
      const snapshot = await findSnapshot(db, disk.owner_id as SnapshotId);
      if (snapshot === null) return false;
      if (snapshot.operation !== null || (await snapshotReaders(db, snapshot.id)).length > 0) return true;
      // A backup of it, a revert to it.
      return ((await findVolume(db, snapshot.volume_id))?.operation ?? null) !== null;
    }
    if (disk.role === 'backup') return ((await findBackup(db, disk.owner_id as BackupId))?.operation ?? null) !== null;
    if (disk.role === 'volume-image') {
      const isOurs = ({ operation }: Volume) =>
        (operation?.input as VolumeInput | undefined)?.imageId === disk.owner_id;
      return (await volumesInOperation(db)).some(isOurs);
    }
    const volumeId = disk.owner_id as VolumeId;
    if ((await findVolume(db, volumeId))?.operation) return true;
    if ((await readersOf(db, volumeId)).length > 0) return true;
    const attachment = await attachmentOf(db, volumeId);
    return attachment?.server_id ? isServers(await findServer(db, attachment.server_id)) : false;
  }
}
