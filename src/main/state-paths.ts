import { join } from 'node:path';
import type { HostPath } from '#core/ids.ts';

/** Where things lie in the data directory. Pure. */
export function statePaths(directory: string) {
  const at = (name: string) => join(directory, name) as HostPath;
  return {
    /** PostgreSQL's data, and its socket. */
    database: at('postgresql'),
    rootKey: at('root.key'),
    /** Signs the certificates of hosts; made when the first one is enrolled. */
    authority: at('authority'),
    /** How the first admin logs in, for the `openstack` client. */
    clouds: at('clouds.yaml'),
    /** Images as users uploaded them. */
    images: at('images'),
    /** Disks of servers, a folder each. */
    disks: at('disks'),
    /** Backups of volumes, unless another directory is configured. */
    backups: at('backups'),
    /** Volumes of backends that keep files and were told no other place, a folder for each. */
    volumes: at('volumes'),
    /** Copies of the encryption headers of disks, a folder each. */
    headers: at('headers'),
    /** What can be made again: images as raw files, libvirt's knowledge of QEMU, the qcow2 skeleton. */
    imageCache: at('cache/images'),
    libvirtCache: at('cache/libvirt'),
    storageCache: at('cache/storage'),
    /** There while the host is being locked. */
    lockDown: at('lock-down'),
    /** A memory file system: sockets, consoles, unlocked disks. Gone after a reboot. */
    run: at('run'),
    /** Which process serves. */
    serviceProcess: at('run/service'),
  } as const;
}

export type StatePaths = ReturnType<typeof statePaths>;
