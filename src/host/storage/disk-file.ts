import { join } from 'node:path';
import type { DiskSpec } from '#core/disk.ts';
import { type HostPath, isUuid } from '#core/ids.ts';
import { makeFolder, removeFile, removeFolderIfEmpty } from '#host/files.ts';

/** Where the file of a disk lies: a folder per server, named by its id, and in it the names that Nova uses. */
export function diskFile(disksDirectory: string, disk: DiskSpec): HostPath {
  return join(serverFolder(disksDirectory, disk), diskName(disk)) as HostPath;
}

/** Makes the folder for a disk's file, durably. *Repeat*: fine. */
export async function makeDiskFolder(disksDirectory: string, disk: DiskSpec): Promise<void> {
  await makeFolder(serverFolder(disksDirectory, disk));
}

/** Removes a disk's file, and its server's folder with the last of its disks. *Repeat*: fine. */
export async function removeDiskFile(disksDirectory: string, disk: DiskSpec): Promise<void> {
  await removeFile(diskFile(disksDirectory, disk));
  await removeFolderIfEmpty(serverFolder(disksDirectory, disk));
}

function serverFolder(disksDirectory: string, disk: DiskSpec): string {
  if (!isUuid(disk.serverId)) throw new Error('a server id that is no UUID must not become a path');
  return join(disksDirectory, disk.serverId);
}

/** What Nova calls a disk of a server; one that replaces another has its generation after it. */
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
  }
}
