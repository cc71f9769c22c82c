import type { HostPath } from '#core/ids.ts';
import type { BlockNode } from '#host/fuse-exports.ts';
import type { DiskAttachment, FileAttachment } from '#host/storage/storage-driver.ts';

/** QEMU's description of a disk's medium, of exactly its size, below any layer that lies on it. */
export function mediumNode(attachment: DiskAttachment): BlockNode {
  if ('rbd' in attachment) {
    const { pool, image, conf, user } = attachment.rbd;
    return { driver: 'rbd', pool, image, conf, user };
  }
  const { path, blockDevice } = attachment;
  if (!blockDevice) return { driver: 'file', filename: path };
  return { driver: 'raw', size: blockDevice.usedBytes, file: { driver: 'host_device', filename: path } };
}

/** Where a disk lies, as libvirt says it of a guest that has it open: a path, or `<pool>/<image>`. */
export function placeOf(attachment: DiskAttachment): string {
  return 'rbd' in attachment ? `${attachment.rbd.pool}/${attachment.rbd.image}` : attachment.path;
}

/** The file or block device of a disk that lies in one. */
export function pathOf(attachment: DiskAttachment): HostPath {
  if ('rbd' in attachment) throw new Error(`${placeOf(attachment)} is an image in a pool, and no file`);
  return attachment.path;
}

/** Undefined: the disk does not lie on a block device. */
export function blockDeviceOf(attachment: DiskAttachment): FileAttachment['blockDevice'] {
  return 'rbd' in attachment ? undefined : attachment.blockDevice;
}
