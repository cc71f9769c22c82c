import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import type { Config, VolumeBackendConfig } from '#config/schema.ts';
import { NightlatchError } from '#core/errors.ts';
import type { BackendName, HostPath } from '#core/ids.ts';
import { qcow2Storage } from '#host/storage/qcow2/driver.ts';
import { rawStorage } from '#host/storage/raw/driver.ts';
import type { StorageDriver } from '#host/storage/storage-driver.ts';
import type { LocalBackend } from '#host/volume-backends.ts';
import type { StatePaths } from '#main/state-paths.ts';

/** How a driver for logical volumes is opened. */
type OpenLvm = (volumeGroup: string, thinPool: string) => Promise<StorageDriver>;

/**
 * The places for volumes that the configuration names.
 *
 * @throws bad-request when one lacks what it needs; what opening a volume group throws.
 */
export async function openBackends(config: Config, paths: StatePaths, openLvm: OpenLvm): Promise<LocalBackend[]> {
  const backends: LocalBackend[] = [];
  for (const [key, own] of Object.entries(config.volume_backends)) {
    const name = key as BackendName;
    const common = { name, volumeBackendName: own.volume_backend_name || name, storage: own.volume_driver };
    if (own.volume_driver === 'lvm') {
      if (own.volume_group === '') throw groupMissing(name);
      backends.push({ ...common, driver: await openLvm(own.volume_group, own.thin_pool), directory: null });
    } else {
      const directory = backendDirectory(name, own, paths);
      await mkdir(directory, { recursive: true, mode: 0o700 });
      backends.push({ ...common, driver: fileDriver(own, directory, paths), directory });
    }
  }
  return backends;
}

/** Folders in which files of volumes lie. */
export function backendDirectories(config: Config, paths: StatePaths): HostPath[] {
  const ofFiles = Object.entries(config.volume_backends).filter(([, { volume_driver }]) => volume_driver !== 'lvm');
  return ofFiles.map(([name, own]) => backendDirectory(name, own, paths));
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
