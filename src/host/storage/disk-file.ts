import { join } from 'node:path';
import { type DiskSpec, serverOfDisk } from '#core/disk.ts';
import { type HostPath, isUuid } from '#core/ids.ts';
import { makeFolder, removeFile, removeFolderIfEmpty } from '#host/files.ts';

/**
 * Where the file of a disk lies: a server's in a folder named by its id, under the name that Nova uses; a volume's and a
 * snapshot's beside each other, under the name that Cinder uses.
 */
export function diskFile(disksDirectory: string, disk: DiskSpec): HostPath {
  return join(diskFolder(disksDirectory, disk), diskName(disk)) as HostPath;
}

/** Makes the folder for a disk's file, durably. *Repeat*: fine. */
export async function makeDiskFolder(disksDirectory: string, disk: DiskSpec): Promise<void> {
  await makeFolder(diskFolder(disksDirectory, disk));
}

/** Removes a disk's file, and with the last of a server's disks its folder. *Repeat*: fine. */
export async function removeDiskFile(disksDirectory: string, disk: DiskSpec): Promise<void> {
  await removeFile(diskFile(disksDirectory, disk));
  if (serverOfDisk(disk) !== null) await removeFolderIfEmpty(diskFolder(disksDirectory, disk));
}

function diskFolder(disksDirectory: string, disk: DiskSpec): string {
  if (!isUuid(disk.ownerId)) throw new Error('an id that is no UUID must not become a path');
  return serverOfDisk(disk) === null ? disksDirectory : join(disksDirectory, disk.ownerId);
}

/** What Nova calls a disk of a server, and Cinder a volume or a snapshot; one that replaces another has its generation after it. */
export function diskName(disk: DiskSpec): string {
  return disk.generation === 0 ? roleName(disk) : `${roleName(disk)}.g${disk.generation}`;
}

function roleName(disk: DiskSpec): string {
  switch (disk.role) {
    case 'rescue':
      return 'disk.rescue';
    case 'root':
      return 'disk';
    case 'ephemeral':
      return `disk.eph${disk.ordinal}`;
    case 'swap':
      return 'disk.swap';
    case 'config-drive':
      return 'disk.config';
    case 'memory':
      return 'memory';
    case 'snapshot':
      return 'disk.snapshot';
    case 'volume':
      return `volume-${disk.ownerId}`;
    // LVM keeps names that begin with `snapshot` for itself.
    case 'volume-snapshot':
      return `_snapshot-${disk.ownerId}`;
    case 'backup':
      return `backup-${disk.ownerId}`;
    case 'volume-image':
      return `image-${disk.ownerId}`;
  }
}
