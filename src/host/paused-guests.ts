import { crashPoint } from '#core/crash-point.ts';
import type { DiskSpec } from '#core/disk.ts';
import { NightlatchError } from '#core/errors.ts';
import type { DiskId, ServerId } from '#core/ids.ts';
import { needKey } from '#host/disk-access.ts';
import type { Mapping } from '#host/encryption/dm-crypt/mappings.ts';
import type { GuestParts } from '#host/guest-power.ts';
import type { DiskKeys } from '#host/host-agent.ts';

type Parts = GuestParts & { readonly lockOnPause: boolean };

/** Guests that stand still, and, with `lock_on_pause`, their keys, which are not in the kernel as long as they do. */
export class PausedGuests {
  readonly #parts: Parts;

  constructor(parts: Parts) {
    this.#parts = parts;
  }

  /** See `HostAgent.pauseServer`. */
  async pause(serverId: ServerId, disks: readonly DiskSpec[]): Promise<void> {
    const { lockOnPause, hypervisor, mirrors } = this.#parts;
    if (lockOnPause) {
      const keeping = disks.find((disk) => disk.encryption !== null && !this.#suspends(disk));
      if (keeping) throw new NightlatchError('pause-keeps-key', { server: serverId, disk: keeping.id });
      await mirrors.checkNone(serverId, `Pausing server ${serverId}`);
    }
    await hypervisor.pause(serverId);
  }

  /** See `HostAgent.lockPaused`. */
  async lock(serverId: ServerId, disks: readonly DiskSpec[]): Promise<readonly DiskId[]> {
    const { lockOnPause, hypervisor, disks: access } = this.#parts;
    if (!lockOnPause || (await hypervisor.state(serverId)) !== 'paused') return [];
    const wiped = disks.filter((disk) => disk.encryption !== null);
    for (const disk of wiped) await access.encryptor(disk).suspend?.(disk);
    crashPoint('agent.lock-paused.wiped');
    return wiped.map(({ id }) => id);
  }

  /** See `HostAgent.lockedWhilePaused`. */
  async locked(serverId: ServerId): Promise<readonly DiskId[]> {
    const { mappings, guests } = this.#parts;
    if (mappings === null) return [];
    const suspended = (await mappings.list()).filter(({ isSuspended }) => isSuspended);
    if (suspended.length === 0) return [];
    const inUse = await guests.pathsInUse([serverId]);
    const isOurs = ({ ownerId, name }: Mapping) => ownerId === serverId || inUse.has(mappings.pathOf(name));
    return suspended.filter(isOurs).map(({ diskId }) => diskId);
  }

  /** See `HostAgent.unlockPaused`. */
  unlock(disks: readonly DiskSpec[], keys: DiskKeys): Promise<void> {
    const { gate, disks: access } = this.#parts;
    return gate.admit(`Putting back keys of ${disks.length} disks`, async () => {
      for (const disk of disks) {
        const key = needKey(disk, keys.get(disk.id));
        await access.encryptor(disk).resume?.(disk, await access.medium(disk), key);
      }
      crashPoint('agent.unlock-paused.put-back');
    });
  }

  /** See `HostAgent.unpauseServer`. */
  async unpause(serverId: ServerId): Promise<void> {
    const [locked] = await this.locked(serverId);
    if (locked) throw new NightlatchError('disk-locked', { doing: `Unpausing server ${serverId}`, disk: locked });
    await this.#parts.hypervisor.unpause(serverId);
  }

  #suspends(disk: DiskSpec): boolean {
    return this.#parts.disks.encryptor(disk).suspend !== undefined;
  }
}
