import type { JSONColumnType } from 'kysely';
import type { StorageFormat } from '#core/disk.ts';
import type { EncryptionFormat } from '#core/encryption-intent.ts';
import type { HostName } from '#core/ids.ts';
import type { VolumeBackend } from '#core/volume-backend.ts';
import type { Time } from '#db/tables/columns.ts';

export type HostsTable = {
  name: HostName;
  traits: string[];
  vcpus: number;
  memory_mib: number;
  disk_gib: number;
  virt_type: string;
  storage: StorageFormat;
  default_encryption_format: EncryptionFormat;
  /** Of a disk that nobody decided about; null: it is not encrypted. */
  undecided_encryption_format: EncryptionFormat | null;
  volume_backends: JSONColumnType<readonly VolumeBackend[]>;
  /** The boot of the host whose guests the servers' rows speak of; null: nobody has looked yet. */
  boot_id: string | null;
  seen_at: Time;
  /** ADDRESS:PORT of its agent; null: this very machine. */
  address: string | null;
  /** SHA-256 of the certificate it was enrolled with; null: this very machine. */
  certificate: string | null;
};
