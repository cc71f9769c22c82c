import type { DiskSpec } from '#core/disk.ts';
import type { HostPath } from '#core/ids.ts';
import type { FuseExports } from '#host/fuse-exports.ts';
import { mediumNode, pathOf } from '#host/storage/attachment.ts';
import type { DiskAttachment } from '#host/storage/storage-driver.ts';

/**
 * Shows what an unencrypted disk holds as a file and returns its path: the medium itself where it has no layers and
 * is exactly as large as the disk, an export otherwise. `FuseExports.withdraw` ends it. What `Encryptor.unlock` is for an encrypted disk.
 *
 * *Throws* program-missing, program-failed.
 */
export async function exposePlainDisk(
  exports: FuseExports,
  disk: DiskSpec,
  attachment: DiskAttachment,
): Promise<HostPath> {
  if (disk.encryption !== null) throw new Error('an encrypted disk is unlocked, not exposed');
  const file = mediumNode(attachment);
  if (attachment.format === 'raw' && file.driver === 'file') return pathOf(attachment);
  const node = attachment.format === 'qcow2' ? { driver: 'qcow2', file } : file;
  return exports.export(disk.id, node, null, `Opening disk ${disk.id}`);
}
