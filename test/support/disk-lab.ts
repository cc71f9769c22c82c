import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { DiskSpec } from '#core/disk.ts';
import { type DiskId, type HostPath, newId, type ServerId } from '#core/ids.ts';
import { MIB } from '#core/sizes.ts';
import type { Encryptor, Medium } from '#host/encryption/encryptor.ts';
import { luksEncryptor } from '#host/encryption/luks/encryptor.ts';
import { FuseExports } from '#host/fuse-exports.ts';
import { qcow2Storage } from '#host/storage/qcow2/driver.ts';
import { rawStorage } from '#host/storage/raw/driver.ts';
import type { StorageDriver } from '#host/storage/storage-driver.ts';

/** What a compute host has for its disks, in folders of its own that vanish with the lab. */
export type DiskLab = AsyncDisposable & {
  readonly disksDirectory: HostPath;
  readonly cacheDirectory: HostPath;
  readonly runDirectory: HostPath;
  readonly exports: FuseExports;
  readonly encryptor: Encryptor;
  driver(storage: DiskSpec['storage']): StorageDriver;
};

/** Makes a lab; its run directory is memory-backed. Afterwards every disk is locked and all folders are gone. */
export async function diskLab(disksDirectory?: string): Promise<DiskLab> {
  const home = await mkdtemp(join(tmpdir(), 'nightlatch-disks-'));
  const runDirectory = (await mkdtemp('/dev/shm/nightlatch-run-')) as HostPath;
  const at = (name: string) => join(home, name) as HostPath;
  const paths = {
    disksDirectory: (disksDirectory ?? at('disks')) as HostPath,
    cacheDirectory: at('cache'),
    runDirectory,
  };
  await mkdir(paths.disksDirectory, { recursive: true });
  await mkdir(paths.cacheDirectory);
  const exports = new FuseExports({ runDirectory });
  const drivers = { raw: rawStorage(paths), qcow2: qcow2Storage(paths) };
  return {
    ...paths,
    exports,
    encryptor: luksEncryptor({ runDirectory, exports }),
    driver: (storage) => drivers[storage],
    async [Symbol.asyncDispose]() {
      for (const id of await exports.exported()) await exports.withdraw(id);
      await rm(runDirectory, { recursive: true, force: true });
      await rm(home, { recursive: true, force: true });
    },
  };
}

/** A disk of 16 MiB and a little, encrypted unless told otherwise. */
export function someDisk(wanted: Partial<DiskSpec> = {}): DiskSpec {
  return {
    id: newId<DiskId>(),
    serverId: newId<ServerId>(),
    role: 'ephemeral',
    ordinal: 0,
    sizeBytes: 16 * MIB + 512,
    storage: 'raw',
    encryption: 'luks',
    ...wanted,
  };
}

export async function mediumOf(driver: StorageDriver, disk: DiskSpec): Promise<Medium> {
  return { attachment: driver.attachment(disk), header: await driver.headerRegion(disk) };
}
