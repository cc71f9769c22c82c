import type { StorageFormat } from '#core/disk.ts';
import type { EncryptionFormat } from '#core/encryption-intent.ts';
import type { BackendName, HostName } from '#core/ids.ts';

/** One place on a host where volumes are kept, as the host reports it. */
export type VolumeBackend = {
  /** Unique on its host: the name of its section in the configuration. */
  readonly name: BackendName;
  /** What volume types ask for by `volume_backend_name`; several backends may share it. */
  readonly volumeBackendName: string;
  readonly storage: StorageFormat;
  /** Encryption formats that work there. */
  readonly formats: readonly EncryptionFormat[];
  readonly capacityGib: number;
};

/** In Cinder's words. */
const protocols: Readonly<Record<StorageFormat, string>> = { raw: 'file', qcow2: 'file', lvm: 'lvm', rbd: 'ceph' };

/** What a volume type's extra specs can ask of a backend, in Cinder's words. */
export function capabilitiesOf(backend: VolumeBackend): Readonly<Record<string, string>> {
  return {
    volume_backend_name: backend.volumeBackendName,
    vendor_name: 'Nightlatch',
    storage_protocol: protocols[backend.storage],
    driver_version: '1',
  };
}

/** How a backend is addressed in an API: HOST@NAME, with its pool HOST@NAME#POOL. Each backend has one pool. */
export function backendAddress(host: HostName, { name, volumeBackendName }: VolumeBackend): string {
  return `${host}@${name}#${volumeBackendName}`;
}
