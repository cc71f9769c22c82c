import { stat, statfs } from 'node:fs/promises';
import { dirname } from 'node:path';
import { crashPoint } from '#core/crash-point.ts';
import type { DiskSpec } from '#core/disk.ts';
import { NightlatchError } from '#core/errors.ts';
import type { HostPath, ServerId } from '#core/ids.ts';
import { MIB } from '#core/sizes.ts';
import type { DiskAccess } from '#host/disk-access.ts';
import type { DiskMaker } from '#host/disk-maker.ts';
import { domainDisk, domainKeys } from '#host/domain-disks.ts';
import { ignoring } from '#host/files.ts';
import { notRunning, wholeOrNot } from '#host/guest-disks.ts';
import type { DiskKeys, MirroredDisk, MirrorState } from '#host/host-agent.ts';
import type { Hypervisor, PresentDisk } from '#host/hypervisor/hypervisor.ts';

/** QEMU mirrors in pieces of up to 1 MiB, several at once; where less is left, one did not fit. */
const NO_ROOM_BYTES = 4 * MIB;

/** Of `st_blocks`, see stat(2). */
const BLOCK_BYTES = 512;

type Parts = { readonly disks: DiskAccess; readonly maker: DiskMaker; readonly hypervisor: Hypervisor };

/** Disks that are mirrored onto others while their guest goes on. A disk is found by where its guest has it open. */
export class DiskMirrors {
  readonly #parts: Parts;

  constructor(parts: Parts) {
    this.#parts = parts;
  }

  /** See `HostAgent.mirrorDisk`. */
  async begin(serverId: ServerId, disks: MirroredDisk, keys: DiskKeys, bytesPerSecond: number): Promise<void> {
    const { disks: access, maker, hypervisor } = this.#parts;
    const { from, to } = disks;
    const present = await this.#present(serverId, from);
    if (!present && (await this.#present(serverId, to))) return;
    if (!present) throw notRunning(`Mirroring disk ${from.id}`, serverId);
    const { target, copy } = present;
    if (copy?.path === access.guestPlace(to)) return await hypervisor.setMirrorSpeed(serverId, target, bytesPerSecond);
    if (copy) await hypervisor.endCopy(serverId, target);
    await maker.make(to, { kind: 'blank' }, keys);
    await this.#checkRoom(disks);
    const isDevice = access.isDevice(to);
    try {
      const attachment = isDevice
        ? await access.unlockDevice(to, keys)
        : await wholeOrNot(access.driver(to).attachment(to));
      const medium = domainDisk({ disk: to, target }, attachment, isDevice);
      await hypervisor.mirrorDisk(serverId, target, medium, domainKeys(isDevice ? [] : [to], keys), bytesPerSecond);
    } catch (error) {
      // Not when nobody knows: QEMU may have it.
      const now = await this.state(serverId, disks).catch(() => null);
      if (now?.kind === 'none' || now?.kind === 'no-guest') await access.lock(to);
      throw error;
    }
    crashPoint('agent.mirror-disk.begun');
  }

  async state(serverId: ServerId, { from, to }: MirroredDisk): Promise<MirrorState> {
    const present = await this.#present(serverId, from);
    if (!present) return { kind: (await this.#present(serverId, to)) ? 'switched' : 'no-guest' };
    const isMirrored = present.copy?.path === this.#parts.disks.guestPlace(to);
    const progress = isMirrored ? await this.#parts.hypervisor.mirrorProgress(serverId, present.target) : null;
    if (present.copy === null || progress === null) return { kind: 'none', fullAt: await this.#fullAt(to) };
    const { copiedBytes, totalBytes } = progress;
    return { kind: 'mirrored', isReady: present.copy.isReady, copiedBytes, totalBytes };
  }

  async setSpeed(serverId: ServerId, { from }: MirroredDisk, bytesPerSecond: number): Promise<void> {
    const present = await this.#present(serverId, from);
    if (present?.copy) await this.#parts.hypervisor.setMirrorSpeed(serverId, present.target, bytesPerSecond);
  }

  /**
   * See `HostAgent.switchToMirror`. While the guest is paused nothing is written; QEMU flushes both sides before it lets go
   * of the one: the old one when the guest is paused, the new one when it becomes the disk.
   */
  async switch(serverId: ServerId, disks: MirroredDisk): Promise<void> {
    const { disks: access, hypervisor } = this.#parts;
    const { from, to } = disks;
    const doing = `Giving server ${serverId} disk ${to.id} instead of ${from.id}`;
    const present = await this.#present(serverId, from);
    // What is flushed now is not waited for while the guest is paused.
    if (present) for (const disk of [from, to]) await access.flush(disk);
    await hypervisor.pause(serverId);
    crashPoint('agent.switch-to-mirror.paused');
    if (present) await hypervisor.pivot(serverId, present.target);
    crashPoint('agent.switch-to-mirror.pivoted');
    if (!(await this.#present(serverId, to))) throw notRunning(doing, serverId);
    await access.flush(to);
    await access.lock(from);
  }

  /** See `HostAgent.endMirror`. */
  async end(serverId: ServerId, disks: MirroredDisk): Promise<void> {
    const { disks: access, hypervisor } = this.#parts;
    const { from, to } = disks;
    const present = await this.#present(serverId, from);
    if (!present && (await this.#present(serverId, to))) {
      const reason = 'its guest has the mirror already';
      throw new NightlatchError('hypervisor-failed', { doing: `Ending the mirror of disk ${from.id}`, reason });
    }
    if (present?.copy?.path === access.guestPlace(to)) await hypervisor.endCopy(serverId, present.target);
    await access.lock(to);
  }

  /** Ends every mirror and copy of a guest's disks: libvirt does not save the memory of a guest that has one. */
  async endAll(serverId: ServerId): Promise<void> {
    const { hypervisor } = this.#parts;
    for (const { target, copy } of await hypervisor.disks(serverId)) {
      if (copy !== null) await hypervisor.endCopy(serverId, target);
    }
  }

  /** @throws conflict while a disk of the guest is being mirrored: the key of what it is mirrored to would stay on the host. */
  async checkNone(serverId: ServerId, doing: string): Promise<void> {
    const mirrored = (await this.#parts.hypervisor.disks(serverId)).find(({ copy }) => copy !== null);
    if (!mirrored) return;
    const reason = `${doing} was not begun: this host forgets keys while a server is paused, and its disk ${mirrored.target} is being copied to another. Wait until that has ended, or cancel it.`;
    throw new NightlatchError('conflict', { reason });
  }

  /**
   * A guest that lies on the same file system is stopped by QEMU when that is full: a mirror that would fill it is not begun.
   * Where what was never written reads as zeros only what was takes room.
   */
  async #checkRoom({ from, to }: MirroredDisk): Promise<void> {
    const { disks } = this.#parts;
    const file = this.#fileOf(to);
    if (file === null) return;
    const isSparse = to.encryption === null || disks.driver(to).capabilities.zeroUntilWritten;
    const source = isSparse ? this.#fileOf(from) : null;
    const needed = source === null ? to.sizeBytes : (await stat(source)).blocks * BLOCK_BYTES;
    const folder = dirname(file);
    const { bavail, bsize } = await statfs(folder);
    if (bavail * bsize >= needed) return;
    const mib = (bytes: number) => Math.ceil(bytes / MIB);
    const where = `${folder}: ${mib(bavail * bsize)} MiB are free, and ${mib(needed)} MiB are needed`;
    throw new NightlatchError('disk-full', { doing: `Mirroring disk ${from.id}`, where });
  }

  /** The folder of a disk on a file system without room, where libvirt does not tell why a mirror ended; or null. */
  async #fullAt(disk: DiskSpec): Promise<HostPath | null> {
    const file = this.#fileOf(disk);
    if (file === null) return null;
    const folder = dirname(file) as HostPath;
    const room = await statfs(folder).catch(ignoring('ENOENT'));
    return room && room.bavail * room.bsize < NO_ROOM_BYTES ? folder : null;
  }

  /** Null: it lies in none. */
  #fileOf(disk: DiskSpec): HostPath | null {
    const attachment = this.#parts.disks.driver(disk).attachment(disk);
    return 'rbd' in attachment || attachment.blockDevice ? null : attachment.path;
  }

  async #present(serverId: ServerId, disk: DiskSpec): Promise<PresentDisk | undefined> {
    const path = this.#parts.disks.guestPlace(disk);
    return (await this.#parts.hypervisor.disks(serverId)).find((each) => each.path === path);
  }
}
