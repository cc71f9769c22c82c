import { randomUUID } from 'node:crypto';
import type { DiskSpec } from '#core/disk.ts';
import type { AttachedVolume, DiskKeys, ServerSpec } from '#host/host-agent.ts';
import type { DomainDisk, DomainKey } from '#host/hypervisor/hypervisor.ts';
import type { DiskAttachment } from '#host/storage/storage-driver.ts';

/** virtio-blk carries at most this many characters of a serial (VIRTIO 1.1, 5.2.6.1). */
const SERIAL_LENGTH = 20;

/** A disk and the name that a domain has it under. */
export type NamedDisk = AttachedVolume;

/** All that a server's guest has, its own disks and its volumes, in the order of their names: it boots from the first. */
export function namedDisks({ id, disks, targets, volumes }: ServerSpec): NamedDisk[] {
  const own = disks.map((disk, index): NamedDisk => {
    const target = targets[index];
    if (target === undefined) throw new Error(`disk ${disk.id} of server ${id} was given no name`);
    return { disk, target };
  });
  return [...own, ...volumes].sort((a, b) => (a.target < b.target ? -1 : 1));
}

/** A virtio disk of a domain. `isUnlocked`: `attachment` shows its plaintext already; else QEMU decrypts it. */
export function domainDisk(named: NamedDisk, attachment: DiskAttachment, isUnlocked: boolean): DomainDisk {
  const { disk, target, readonly = false } = named;
  return {
    attachment,
    target,
    device: 'disk',
    // A user knows a volume by the volume's own id.
    serial: (disk.role === 'volume' ? disk.ownerId : disk.id).slice(0, SERIAL_LENGTH),
    readonly,
    // The libvirt secret has the disk's id: it exists only during the call, so it needs no id of its own.
    encryption: disk.encryption === null || isUnlocked ? null : { format: disk.encryption, secretUuid: disk.id },
    ...('rbd' in attachment ? { clusterSecretUuid: attachment.rbd.secretUuid ?? randomUUID() } : {}),
  };
}

/** The keys of those disks that are encrypted, filed in libvirt under server and disk. */
export function domainKeys(disks: readonly DiskSpec[], keys: DiskKeys): DomainKey[] {
  return disks.flatMap((disk) => {
    if (disk.encryption === null) return [];
    const key = keys.get(disk.id);
    if (!key) throw new Error(`encrypted disk ${disk.id} was given no key`);
    return [{ secretUuid: disk.id, usage: `${disk.ownerId}_${disk.id}`, key }];
  });
}
