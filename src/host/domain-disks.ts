import type { DiskSpec } from '#core/disk.ts';
import type { DiskId } from '#core/ids.ts';
import type { DiskKeys } from '#host/host-agent.ts';
import type { DomainDisk, DomainKey } from '#host/hypervisor/hypervisor.ts';
import type { DiskAttachment } from '#host/storage/storage-driver.ts';

const TARGETS = 'abcdefghijklmnopqrstuvwxyz';
/** virtio-blk carries at most this many characters of a serial (VIRTIO 1.1, 5.2.6.1). */
const SERIAL_LENGTH = 20;

/**
 * A server's disks as its domain has them: virtio disks vda, vdb, … in the order given. Those in `unlocked` are block
 * devices that show their plaintext already; QEMU decrypts the other encrypted ones.
 */
export function domainDisks(
  disks: readonly DiskSpec[],
  attachmentOf: (disk: DiskSpec) => DiskAttachment,
  unlocked: ReadonlyMap<DiskId, DiskAttachment>,
): DomainDisk[] {
  return disks.map((disk, index) => ({
    attachment: unlocked.get(disk.id) ?? attachmentOf(disk),
    target: `vd${TARGETS[index]}`,
    device: 'disk',
    serial: disk.id.slice(0, SERIAL_LENGTH),
    // The libvirt secret has the disk's id: it exists only during the call, so it needs no id of its own.
    encryption:
      disk.encryption === null || unlocked.has(disk.id) ? null : { format: disk.encryption, secretUuid: disk.id },
  }));
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
