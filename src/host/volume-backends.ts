import { statfs } from 'node:fs/promises';
import type { StorageFormat } from '#core/disk.ts';
import type { EncryptionFormat } from '#core/encryption-intent.ts';
import type { BackendName, HostPath } from '#core/ids.ts';
import { GIB } from '#core/sizes.ts';
import type { VolumeBackend } from '#core/volume-backend.ts';
import type { Encryptor } from '#host/encryption/encryptor.ts';
import { workingFormats } from '#host/probe-formats.ts';
import type { StorageDriver } from '#host/storage/storage-driver.ts';
import type { TriedFormats } from '#host/tried-formats.ts';

/** A place for volumes on this host, with what keeps them there. */
export type LocalBackend = Pick<VolumeBackend, 'name' | 'volumeBackendName' | 'storage'> & {
  readonly driver: StorageDriver;
  /** Where its files lie; null: they are none. */
  readonly directory: HostPath | null;
};

/** What a host tells of its backends, and why they lack what they could have. */
export async function describeBackends(
  backends: readonly LocalBackend[],
  encryptorFor: (driver: StorageDriver, format: EncryptionFormat) => Encryptor | undefined,
  tried: (place: string) => Promise<TriedFormats>,
): Promise<{ readonly volumeBackends: VolumeBackend[]; readonly problems: string[] }> {
  const volumeBackends: VolumeBackend[] = [];
  const problems: string[] = [];
  // One after the other: a probe has one name.
  for (const { name, volumeBackendName, storage, driver, directory } of backends) {
    const formats = await workingFormats(storage, driver, encryptorFor, await tried(`volumes.${name}`));
    const capacityGib = Math.floor((await capacityBytes(driver, directory)) / GIB);
    volumeBackends.push({ name, volumeBackendName, storage, formats: formats.able, capacityGib });
    problems.push(...formats.problems.map((problem) => `Volume backend ${name}: ${problem}`));
  }
  return { volumeBackends, problems };
}

async function capacityBytes(driver: StorageDriver, directory: HostPath | null): Promise<number> {
  const told = await driver.capacityBytes?.();
  if (told !== undefined) return told;
  if (directory === null) throw new Error('a backend without files must know its capacity');
  const { blocks, bsize } = await statfs(directory);
  return blocks * bsize;
}

/** @throws when this host has no backend of that name, which its control plane should have known. */
export function backendNamed(backends: readonly LocalBackend[], name: BackendName, storage: StorageFormat) {
  const backend = backends.find((each) => each.name === name);
  if (!backend) throw new Error(`this host has no volume backend ${name}`);
  if (backend.storage !== storage) throw new Error(`volume backend ${name} keeps ${backend.storage}, not ${storage}`);
  return backend;
}
