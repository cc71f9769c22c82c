import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import type { Config, VolumeBackendConfig } from '#config/schema.ts';
import { NightlatchError } from '#core/errors.ts';
import type { BackendName, HostPath } from '#core/ids.ts';
import { qcow2Storage } from '#host/storage/qcow2/driver.ts';
import { rawStorage } from '#host/storage/raw/driver.ts';
import type { Pool } from '#host/storage/rbd/images.ts';
import type { StorageDriver } from '#host/storage/storage-driver.ts';
import type { LocalBackend } from '#host/volume-backends.ts';
import { backendPool } from '#main/ceph-pools.ts';
import type { StatePaths } from '#main/state-paths.ts';

/** How drivers that keep no files are opened. */
type Openers = {
  readonly lvm: (volumeGroup: string, thinPool: string) => Promise<StorageDriver>;
  readonly rbd: (pool: Pool, maxCloneDepth: number) => Promise<StorageDriver>;
};

/**
 * The places for volumes that the configuration names.
 *
 * @throws bad-request when one lacks what it needs; what opening a volume group or a pool throws.
 */
export async function openBackends(config: Config, paths: StatePaths, open: Openers): Promise<LocalBackend[]> {
  const backends: LocalBackend[] = [];
  for (const [key, own] of Object.entries(config.volume_backends)) {
    const name = key as BackendName;
    const common = { name, volumeBackendName: own.volume_backend_name || name, storage: own.volume_driver };
    const directory = isOfFiles(own) ? backendDirectory(name, own, paths) : null;
    if (directory !== null) await mkdir(directory, { recursive: true, mode: 0o700 });
    const driver = directory === null ? await openElsewhere(name, own, open) : fileDriver(own, directory, paths);
    backends.push({ ...common, driver, directory });
  }
  return backends;
}

/** Folders in which files of volumes lie. */
export function backendDirectories(config: Config, paths: StatePaths): HostPath[] {
  const ofFiles = Object.entries(config.volume_backends).filter(([, own]) => isOfFiles(own));
  return ofFiles.map(([name, own]) => backendDirectory(name, own, paths));
}

function isOfFiles({ volume_driver }: VolumeBackendConfig): boolean {
  return volume_driver === 'raw' || volume_driver === 'qcow2';
}

async function openElsewhere(name: BackendName, own: VolumeBackendConfig, open: Openers): Promise<StorageDriver> {
  if (own.volume_driver === 'rbd') {
    return await open.rbd(backendPool(own), own.rbd_max_clone_depth);
  }
  if (own.volume_group === '') throw groupMissing(name);
  return await open.lvm(own.volume_group, own.thin_pool);
}

function backendDirectory(name: string, { directory }: VolumeBackendConfig, paths: StatePaths): HostPath {
  return (directory === '' ? join(paths.volumes, name) : directory) as HostPath;
}

/** No volume is an overlay over an image: it outlives the image, and is copied file by file. */
function fileDriver({ volume_driver }: VolumeBackendConfig, disksDirectory: HostPath, paths: StatePaths) {
  if (volume_driver === 'raw') return rawStorage({ disksDirectory });
  return qcow2Storage({ disksDirectory, cacheDirectory: paths.storageCache, overlays: false });
}

function groupMissing(name: BackendName): NightlatchError {
  const reason = `[volume_backends.${name}] volume_driver is "lvm" and volume_group is empty. Name the volume group for its volumes.`;
  return new NightlatchError('bad-request', { reason });
}
