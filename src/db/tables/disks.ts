import type { Generated } from 'kysely';
import type { DiskOwnerId, DiskRole, DiskStanding, DiskState, StorageFormat } from '#core/disk.ts';
import type { EncryptionFormat } from '#core/encryption-intent.ts';
import type { BackendName, DiskId, HostName, ImageId, ProjectId, SecretId } from '#core/ids.ts';
import type { CreatedAt } from '#db/tables/columns.ts';

export type DisksTable = {
  id: DiskId;
  /** Whose it is; its role says whether that is a server, a volume or a snapshot. */
  owner_id: DiskOwnerId;
  /** The volume backend that keeps it; null: it lies where its host keeps servers' disks. */
  backend: BackendName | null;
  project_id: ProjectId;
  role: DiskRole;
  ordinal: number;
  /** Tells a disk from the one it replaces. */
  generation: Generated<number>;
  standing: Generated<DiskStanding>;
  size_bytes: number;
  storage: StorageFormat | null;
  encryption: EncryptionFormat | null;
  /** Null: neither flavor nor image says, and no host was found yet. */
  encrypted: boolean | null;
  image_id: ImageId | null;
  host: HostName | null;
  state: DiskState;
  secret_id: SecretId | null;
  /** While it is `rekeying`: the secret that is to open it. After that: the one that did, until it is destroyed. */
  other_secret_id: SecretId | null;
  created_at: CreatedAt;
};
