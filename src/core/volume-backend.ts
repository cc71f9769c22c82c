import type { StorageFormat } from '#core/disk.ts';
import type { EncryptionFormat } from '#core/encryption-intent.ts';
import type { BackendName } from '#core/ids.ts';

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
