import { crashPoint } from '#core/crash-point.ts';
import type { DiskSpec } from '#core/disk.ts';
import { NightlatchError } from '#core/errors.ts';
import type { DiskId, ServerId } from '#core/ids.ts';
import { deviceBytes } from '#host/block-device.ts';
import type { DiskAccess } from '#host/disk-access.ts';
import { domainDisk, domainKeys, type NamedDisk, namedDisks } from '#host/domain-disks.ts';
import type { AttachedVolume, DiskKeys, ServerSpec } from '#host/host-agent.ts';
import type { DomainDisk, DomainKey, DomainSpec, Hypervisor } from '#host/hypervisor/hypervisor.ts';
import { blockDeviceOf, pathOf } from '#host/storage/attachment.ts';
import type { DiskAttachment } from '#host/storage/storage-driver.ts';

type Parts = { readonly disks: DiskAccess; readonly hypervisor: Hypervisor };

/** How long a guest may take to let go of a volume. */
const DETACH_TIMEOUT_MS = 30_000;

/** The disks and volumes of guests: unlocked as long as their guest has them, and no longer. */
export class GuestDisks {
  readonly #parts: Parts;

  constructor(parts: Parts) {
    this.#parts = parts;
  }

  /**
   * Unlocks the disks that the guest sees as block devices, gives the domain and the keys of the others to `act`, and
   * locks again when that fails. When it is not known whether the guest runs, they stay for `stopServer`, which ends it.
   */
  async unlockAndAct(
    server: ServerSpec,
    keys: DiskKeys,
    act: (domain: DomainSpec, keys: readonly DomainKey[]) => Promise<void>,
  ): Promise<void> {
    const { disks: access, hypervisor } = this.#parts;
    const all = namedDisks(server).map(({ disk }) => disk);
    const devices = all.filter((disk) => access.isDevice(disk));
    const byQemu = all.filter((disk) => !access.isDevice(disk));
    const unlocked = new Map<DiskId, DiskAttachment>();
    try {
      for (const disk of devices) unlocked.set(disk.id, await access.unlockDevice(disk, keys));
      const domain = await this.#domain(server, unlocked);
      await access.tellingWrongKey(byQemu, keys, () => act(domain, domainKeys(byQemu, keys)));
    } catch (error) {
      const state = await hypervisor.state(server.id).catch(() => null);
      if (state === 'absent') for (const disk of devices) await access.lock(disk);
      throw error;
    }
  }

  /** `unlocked`: the disks that are block devices by now. */
  async #domain(server: ServerSpec, unlocked: ReadonlyMap<DiskId, DiskAttachment>): Promise<DomainSpec> {
    const { id: serverId, name, displayName, projectId, vcpus, memoryMib, network } = server;
    const disks = await Promise.all(namedDisks(server).map((named) => this.#domainDisk(named, unlocked)));
    return { serverId, name, displayName, projectId, vcpus, memoryMib, network, disks };
  }

  /** See `HostAgent.attachVolume`. */
  async attach(server: ServerSpec, volume: AttachedVolume, keys: DiskKeys): Promise<void> {
    const { disks: access, hypervisor } = this.#parts;
    const { disk } = volume;
    if (await this.#has(server.id, volume)) return;
    if ((await hypervisor.state(server.id)) === 'absent')
      throw notRunning(`Attaching volume ${disk.ownerId}`, server.id);
    await access.checkHeader(disk);
    const isDevice = access.isDevice(disk);
    const unlocked = new Map<DiskId, DiskAttachment>();
    try {
      if (isDevice) unlocked.set(disk.id, await access.unlockDevice(disk, keys));
      crashPoint('agent.attach-volume.unlocked');
      const added = await this.#domainDisk(volume, unlocked);
      const byQemu = isDevice ? [] : [disk];
      const attach = () => hypervisor.attach(server.id, added, domainKeys(byQemu, keys));
      await access.tellingWrongKey(byQemu, keys, attach);
    } catch (error) {
      // Not when nobody knows: the guest may have it.
      if ((await this.#has(server.id, volume).catch(() => true)) === false) await access.lock(disk);
      throw error;
    }
    crashPoint('agent.attach-volume.attached');
  }

  /** See `HostAgent.detachVolume`. */
  async detach(serverId: ServerId, volume: AttachedVolume): Promise<void> {
    const { disks: access, hypervisor } = this.#parts;
    const { disk } = volume;
    const removed = await this.#domainDisk(volume, new Map());
    // Another disk may have its name by now.
    const isThere = await this.#has(serverId, volume);
    if (isThere && !(await hypervisor.detach(serverId, removed, DETACH_TIMEOUT_MS))) {
      const seconds = DETACH_TIMEOUT_MS / 1000;
      throw new NightlatchError('volume-not-released', { volume: disk.ownerId, server: serverId, seconds });
    }
    crashPoint('agent.detach-volume.released');
    await access.lock(disk);
  }

  /** See `HostAgent.growDisk`. */
  async grow(disk: DiskSpec, hadBytes: number, keys: DiskKeys, serverId: ServerId | null): Promise<void> {
    const { disks: access, hypervisor } = this.#parts;
    const driver = access.driver(disk);
    if (serverId === null) return await driver.grow(disk, hadBytes);
    const doing = `Growing disk ${disk.id}`;
    const blockDevice = blockDeviceOf(driver.attachment(disk));
    const path = access.guestPlace(disk);
    const present = (await hypervisor.disks(serverId)).find((each) => each.path === path);
    if (!present) throw notRunning(doing, serverId);
    const seenBytes = () => hypervisor.diskBytes(serverId, present.target);
    // Of a clear volume the new part is zeroed, which a repeat must not do: the guest may have written there by now.
    if (blockDevice && disk.encryption === null && (await seenBytes()) >= disk.sizeBytes) return;
    if (blockDevice) {
      if (!access.isDevice(disk)) checkWhole(disk, doing);
      await driver.grow(disk, hadBytes);
      if (access.isDevice(disk)) await access.growDevice(disk, keys);
    }
    crashPoint('agent.grow-disk.grown');
    await hypervisor.resize(serverId, present.target, disk.sizeBytes);
    const seen = await seenBytes();
    if (seen !== disk.sizeBytes) {
      const reason = `its guest sees ${seen} bytes instead of ${disk.sizeBytes}`;
      throw new NightlatchError('hypervisor-failed', { doing, reason });
    }
    if (!blockDevice) await access.flush(disk);
  }

  /** *Throws* disk-in-use when a guest has the disk, or it is unlocked for somebody else. */
  async checkClosed(disk: DiskSpec, doing: string): Promise<void> {
    const { disks: access, hypervisor } = this.#parts;
    const domains = (await hypervisor.domains()).filter(({ state }) => state !== 'absent');
    const paths = await this.pathsInUse(domains.map(({ serverId }) => serverId));
    const isOpen = paths.has(access.guestPlace(disk));
    if (isOpen) throw new NightlatchError('disk-in-use', { doing, disk: disk.id, reason: 'a guest has it' });
    const isUnlocked = (await access.encryptor(disk).unlocked()).includes(disk.id);
    if (isUnlocked) throw new NightlatchError('disk-in-use', { doing, disk: disk.id, reason: 'it is unlocked' });
  }

  /** Where the disks lie that running guests have open. */
  async pathsInUse(serverIds: readonly ServerId[]): Promise<Set<string>> {
    const disks = await Promise.all(serverIds.map((id) => this.#parts.hypervisor.disks(id)));
    return new Set(disks.flat().flatMap(({ path, copy }) => (copy === null ? [path] : [path, copy.path])));
  }

  async #has(serverId: ServerId, { disk, target }: AttachedVolume): Promise<boolean> {
    const { serial } = domainDisk({ disk, target }, this.#medium(disk), false);
    return (await this.#parts.hypervisor.disks(serverId)).some(
      (present) => present.target === target && present.serial === serial,
    );
  }

  async #domainDisk(named: NamedDisk, unlocked: ReadonlyMap<DiskId, DiskAttachment>): Promise<DomainDisk> {
    const device = unlocked.get(named.disk.id);
    return domainDisk(named, device ?? (await wholeOrNot(this.#medium(named.disk))), device !== undefined);
  }

  #medium(disk: DiskSpec): DiskAttachment {
    return this.#parts.disks.driver(disk).attachment(disk);
  }
}

/** A block device that is exactly as large as the disk needs no slice, which could not be made larger. */
export async function wholeOrNot(attachment: DiskAttachment): Promise<DiskAttachment> {
  const blockDevice = blockDeviceOf(attachment);
  if (!blockDevice) return attachment;
  const isWhole = (await deviceBytes(pathOf(attachment))) === blockDevice.usedBytes;
  return { ...attachment, blockDevice: { ...blockDevice, isWhole } };
}

/** A volume group gives out whole extents; the guest would see what lies beyond the disk's own size. */
function checkWhole(disk: DiskSpec, doing: string): void {
  if (disk.encryption === null) return;
  const reason = `${doing} while a guest has it open is not supported where QEMU decrypts a logical volume. Detach it or stop the server first, or set luks_engine = "dm-crypt" in [libvirt].`;
  throw new NightlatchError('not-implemented', { reason });
}

export function notRunning(doing: string, serverId: ServerId): NightlatchError {
  const reason = `server ${serverId} does not run, or has no such disk`;
  return new NightlatchError('hypervisor-failed', { doing, reason });
}
