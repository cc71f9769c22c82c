import type { ColumnType, Generated, JSONColumnType } from 'kysely';
import type { StorageFormat } from '#core/disk.ts';
import type { EncryptionFormat } from '#core/encryption-intent.ts';
import type { BackupId, ProjectId, SecretId, SnapshotId, UserId, VolumeId, VolumeTypeId } from '#core/ids.ts';
import type { BackupStatus, SnapshotStatus } from '#core/volume.ts';
import type { CreatedAt, PendingOperation, Strings, Time } from '#db/tables/columns.ts';

export type SnapshotsTable = {
  id: SnapshotId;
  volume_id: VolumeId;
  project_id: ProjectId;
  user_id: UserId;
  name: string | null;
  description: string | null;
  size_gib: number;
  status: SnapshotStatus;
  /** As a client said, such as `80%`; null: as its status says. */
  progress: ColumnType<string | null, string | null | undefined, string | null>;
  metadata: JSONColumnType<Strings>;
  operation: JSONColumnType<PendingOperation | null, string | null, string | null>;
  created_at: CreatedAt;
  updated_at: Time;
  deleted_at: ColumnType<Date | null, Date | null | undefined, Date | null>;
};

/** How the bytes of a backup lay on their medium. `sizeBytes`: what of it was usable. */
export type BackupLayout = {
  readonly storage: StorageFormat;
  readonly encryption: EncryptionFormat | null;
  readonly sizeBytes: number;
};

export type BackupsTable = {
  id: BackupId;
  volume_id: VolumeId;
  /** Null: of the volume itself. */
  snapshot_id: SnapshotId | null;
  /** What it differs from; null: it is whole. */
  parent_id: BackupId | null;
  project_id: ProjectId;
  user_id: UserId;
  name: string | null;
  description: string | null;
  metadata: JSONColumnType<Strings>;
  container: string | null;
  size_gib: number;
  status: BackupStatus;
  fail_reason: string | null;
  volume_type_id: VolumeTypeId | null;
  availability_zone: string;
  object_count: Generated<number>;
  /** Null: its bytes are not stored yet. */
  layout: JSONColumnType<BackupLayout | null, string | null | undefined, string | null>;
  /** Of an encrypted one. */
  secret_id: SecretId | null;
  data_at: ColumnType<Date, Date | undefined, never>;
  /** Where it was restored to last. */
  restored_volume_id: VolumeId | null;
  operation: JSONColumnType<PendingOperation | null, string | null, string | null>;
  created_at: CreatedAt;
  updated_at: Time;
  deleted_at: ColumnType<Date | null, Date | null | undefined, Date | null>;
};
