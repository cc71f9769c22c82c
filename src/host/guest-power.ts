import { crashPoint } from '#core/crash-point.ts';
import type { DiskSpec } from '#core/disk.ts';
import { NightlatchError } from '#core/errors.ts';
import type { ServerId } from '#core/ids.ts';
import type { Secret } from '#core/secret.ts';
import type { DiskAccess } from '#host/disk-access.ts';
import type { DiskMirrors } from '#host/disk-mirrors.ts';
import { namedDisks } from '#host/domain-disks.ts';
import type { Mapping, Mappings } from '#host/encryption/dm-crypt/mappings.ts';
import type { Gate } from '#host/gate.ts';
import type { GuestDisks } from '#host/guest-disks.ts';
import type { DiskKeys, ServerSpec } from '#host/host-agent.ts';
import type { DomainKey, DomainSpec, Hypervisor } from '#host/hypervisor/hypervisor.ts';
import { isCompleteSave } from '#host/saved-memory.ts';

/** What guests are worked on with. */
export type GuestParts = {
  readonly disks: DiskAccess;
  readonly guests: GuestDisks;
  readonly mirrors: DiskMirrors;
  readonly mappings: Mappings | null;
  readonly hypervisor: Hypervisor;
  readonly gate: Gate;
};

/** Guests begin, end, and go on from saved memory; their disks are unlocked just before and locked just after. */
export class GuestPower {
  readonly #parts: GuestParts;

  constructor(parts: GuestParts) {
    this.#parts = parts;
  }

  /** See `HostAgent.startServer`. */
  async start(server: ServerSpec, keys: DiskKeys): Promise<void> {
    const { disks, hypervisor } = this.#parts;
    if ((await hypervisor.state(server.id)) !== 'absent') return;
    await Promise.all(namedDisks(server).map(({ disk }) => disks.checkHeader(disk)));
    await this.#withDisks(server, keys, (domain, domainKeys) => hypervisor.start(domain, domainKeys));
    crashPoint('agent.start-server.started');
  }

  /** See `HostAgent.stopServer`. */
  async stop(serverId: ServerId, disks: readonly DiskSpec[], gracefulMs: number): Promise<void> {
    const { hypervisor, mappings } = this.#parts;
    const ended = gracefulMs > 0 && (await hypervisor.shutdown(serverId, gracefulMs));
    if (!ended) {
      // QEMU flushes when it is told to end, and would wait for ever.
      const isOurs = ({ ownerId, diskId }: Mapping) => ownerId === serverId || disks.some(({ id }) => id === diskId);
      await mappings?.failSuspended(`Ending server ${serverId}`, isOurs);
      await hypervisor.destroy(serverId);
    }
    crashPoint('agent.stop-server.ended');
    for (const disk of disks) await this.#parts.disks.lock(disk);
    await mappings?.closeEach('Locking server', ({ ownerId }) => ownerId === serverId);
  }

  /** See `HostAgent.suspendServer`. */
  async suspend(serverId: ServerId, memory: DiskSpec, memoryKey: Secret | null): Promise<void> {
    const { disks, hypervisor, mirrors } = this.#parts;
    await disks.withPlaintext(memory, memoryKey, async (path) => {
      if ((await hypervisor.state(serverId)) !== 'absent') {
        await mirrors.endAll(serverId);
        await hypervisor.save(serverId, path);
        crashPoint('agent.suspend-server.saved');
        return;
      }
      if (await isCompleteSave(path)) return;
      const reason = 'the guest ended by itself before its memory was saved';
      throw new NightlatchError('hypervisor-failed', { doing: `Suspending server ${serverId}`, reason });
    });
  }

  /** See `HostAgent.restoreServer`. */
  async restore(server: ServerSpec, memory: DiskSpec, keys: DiskKeys): Promise<void> {
    const { disks, hypervisor } = this.#parts;
    if ((await hypervisor.state(server.id)) !== 'absent') return await disks.lock(memory);
    await disks.withPlaintext(memory, keys.get(memory.id) ?? null, async (path) => {
      if (!(await isCompleteSave(path))) {
        const reason = 'its saved memory is incomplete';
        throw new NightlatchError('saved-memory-unreadable', { server: server.id, reason });
      }
      await this.#withDisks(server, keys, (domain, domainKeys) => hypervisor.restore(domain, path, domainKeys));
      crashPoint('agent.restore-server.restored');
    });
  }

  #withDisks(
    server: ServerSpec,
    keys: DiskKeys,
    act: (domain: DomainSpec, keys: readonly DomainKey[]) => Promise<void>,
  ): Promise<void> {
    const { gate, guests } = this.#parts;
    return gate.admit(`Starting server ${server.id}`, () => guests.unlockAndAct(server, keys, act));
  }
}
