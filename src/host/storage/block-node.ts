import type { BlockNode } from '#host/fuse-exports.ts';
import type { DiskAttachment } from '#host/storage/storage-driver.ts';

/** QEMU's description of a disk's medium, of exactly its size, below any layer that lies on it. */
export function mediumNode({ path, blockDevice }: DiskAttachment): BlockNode {
  if (!blockDevice) return { driver: 'file', filename: path };
  return { driver: 'raw', size: blockDevice.usedBytes, file: { driver: 'host_device', filename: path } };
}
