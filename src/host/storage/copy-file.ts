import { dirname } from 'node:path';
import type { DiskSpec } from '#core/disk.ts';
import type { HostPath } from '#core/ids.ts';
import { run } from '#host/exec.ts';
import { syncFile, syncFolder, tellingDiskFull } from '#host/files.ts';
import { diskFile, makeDiskFolder, removeDiskFile } from '#host/storage/disk-file.ts';

const TIMEOUT_MS = 24 * 60 * 60_000;

/**
 * Makes the file of `disk` a copy of another, durably: at once where the file system lets files share what they hold, and
 * otherwise with its holes. `StorageDriver.copy` of those that keep files.
 */
export async function copyDiskFile(from: HostPath, disk: DiskSpec, disksDirectory: HostPath): Promise<void> {
  const doing = `Copying ${from} to disk ${disk.id}`;
  const path = diskFile(disksDirectory, disk);
  try {
    await tellingDiskFull(doing, disksDirectory, async () => {
      await makeDiskFolder(disksDirectory, disk);
      // What an earlier try left must not stay in the holes.
      await run('cp', ['--remove-destination', '--reflink=auto', '--sparse=auto', '--', from, path], {
        doing,
        timeoutMs: TIMEOUT_MS,
      });
      await syncFile(path);
      await syncFolder(dirname(path));
    });
  } catch (error) {
    await removeDiskFile(disksDirectory, disk);
    throw error;
  }
}
