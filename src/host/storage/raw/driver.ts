import { open, stat } from 'node:fs/promises';
import { dirname } from 'node:path';
import type { DiskSpec } from '#core/disk.ts';
import { NightlatchError } from '#core/errors.ts';
import type { HostPath } from '#core/ids.ts';
import { LUKS1_HEADER_BYTES } from '#core/sizes.ts';
import { hasCode, syncFolder, tellingDiskFull } from '#host/files.ts';
import { pathOf } from '#host/storage/attachment.ts';
import { copyDiskFile } from '#host/storage/copy-file.ts';
import { diskFile, makeDiskFolder, removeDiskFile } from '#host/storage/disk-file.ts';
import { headerInFile } from '#host/storage/header-file.ts';
import type { FileAttachment, StorageDriver } from '#host/storage/storage-driver.ts';

/**
 * Keeps each disk as a file `<disks directory>/<server id>/<name>` whose bytes are the disk's, after the header if it is
 * encrypted.
 *
 * The file is sparse: creating it takes the same time at any size, and it takes room as the guest writes, which is what
 * Nova does unless `preallocate_images` says otherwise. The price is that a full host is met by a guest's write, not by
 * the creation of its disk.
 */
export function rawStorage({ disksDirectory }: { readonly disksDirectory: HostPath }): StorageDriver<FileAttachment> {
  const fileOf = (disk: DiskSpec) => diskFile(disksDirectory, disk);
  return {
    capabilities: { formats: ['luks'], copyOnWrite: [], zeroUntilWritten: false, blockDevice: false },

    async create(disk, backing) {
      if (backing !== null) throw new Error('a raw disk has no backing file');
      const doing = `Creating disk ${disk.id}`;
      try {
        await tellingDiskFull(doing, disksDirectory, async () => {
          await makeDiskFolder(disksDirectory, disk);
          await createSparse(fileOf(disk), disk.sizeBytes + headerBytes(disk));
        });
      } catch (error) {
        await removeDiskFile(disksDirectory, disk);
        throw error;
      }
    },

    copy: (from, disk) => copyDiskFile(pathOf(from), disk, disksDirectory),

    delete: (disk) => removeDiskFile(disksDirectory, disk),

    grow: (disk) =>
      tellingDiskFull(`Growing disk ${disk.id}`, disksDirectory, () =>
        growSparse(fileOf(disk), disk.sizeBytes + headerBytes(disk)),
      ),

    attachment: (disk) => ({ path: fileOf(disk), format: 'raw' }),

    async headerRegion(disk) {
      const path = fileOf(disk);
      const size = await fileSize(path);
      if (headerBytes(disk) === 0 || size === null || size < LUKS1_HEADER_BYTES) {
        throw new NightlatchError('disk-header-missing', {
          disk: disk.id,
          format: disk.encryption ?? 'encryption',
          path,
        });
      }
      return headerInFile({ path, offset: 0, length: LUKS1_HEADER_BYTES });
    },
  };
}

function headerBytes(disk: DiskSpec): number {
  return disk.encryption === null ? 0 : LUKS1_HEADER_BYTES;
}

async function createSparse(path: HostPath, sizeBytes: number): Promise<void> {
  await using file = await open(path, 'w', 0o600);
  await file.truncate(sizeBytes);
  await file.sync();
  await syncFolder(dirname(path));
}

async function growSparse(path: HostPath, sizeBytes: number): Promise<void> {
  await using file = await open(path, 'r+');
  if ((await file.stat()).size < sizeBytes) await file.truncate(sizeBytes);
  await file.sync();
}

async function fileSize(path: HostPath): Promise<number | null> {
  try {
    return (await stat(path)).size;
  } catch (error) {
    if (hasCode(error, 'ENOENT')) return null;
    throw error;
  }
}
