import type { ColumnType, Generated, JSONColumnType } from 'kysely';
import type {
  AttachmentId,
  BackendName,
  HostName,
  ProjectId,
  ServerId,
  TransferId,
  UserId,
  VolumeId,
  VolumeTypeId,
} from '#core/ids.ts';
import type { AttachmentStatus, VolumeEncryption, VolumeSource, VolumeStatus } from '#core/volume.ts';
import type { MigrationKind, MigrationStatus } from '#core/volume-migration.ts';
import type { CreatedAt, PendingOperation, Strings, Time } from '#db/tables/columns.ts';

export type VolumesTable = {
  id: VolumeId;
  project_id: ProjectId;
  user_id: UserId;
  name: string | null;
  description: string | null;
  size_gib: number;
  status: VolumeStatus;
  /** What it goes back to when what is done to it ends. */
  previous_status: VolumeStatus | null;
  volume_type_id: VolumeTypeId | null;
  /** As its type said when it was made; null: it is not encrypted. */
  encryption: JSONColumnType<VolumeEncryption | null, string | null | undefined, string | null>;
  availability_zone: string;
  metadata: JSONColumnType<Strings>;
  /** Of the image it was made from; null: none. */
  image_metadata: JSONColumnType<Strings | null, string | null | undefined, string | null>;
  bootable: Generated<boolean>;
  /** Null: nobody said whether it is. */
  readonly: ColumnType<boolean | null, boolean | null | undefined, boolean | null>;
  source: JSONColumnType<VolumeSource>;
  host: HostName | null;
  backend: BackendName | null;
  migration_status: string | null;
  operation: JSONColumnType<PendingOperation | null, string | null, string | null>;
  created_at: CreatedAt;
  updated_at: Time;
  launched_at: ColumnType<Date | null, Date | null | undefined, Date | null>;
  deleted_at: ColumnType<Date | null, Date | null | undefined, Date | null>;
};

export type VolumeMigrationsTable = {
  volume_id: VolumeId;
  kind: MigrationKind;
  status: MigrationStatus;
  /** Null: nobody can say how far it is. */
  copied_bytes: number | null;
  total_bytes: number | null;
  /** At most so fast; 0: as fast as it goes. */
  bytes_per_second: number;
  /** Why it failed. */
  reason: string | null;
  created_at: CreatedAt;
  updated_at: Time;
};

export type VolumeAttachmentsTable = {
  id: AttachmentId;
  volume_id: VolumeId;
  /** Null: reserved for nobody in particular. */
  server_id: ServerId | null;
  status: AttachmentStatus;
  /** Its name in the guest, such as /dev/vdb. */
  device: string | null;
  mode: Generated<'rw' | 'ro'>;
  /** As the client described the other end; nothing of ours depends on it. */
  connector: JSONColumnType<Readonly<Record<string, unknown>> | null, string | null | undefined, string | null>;
  delete_on_termination: Generated<boolean>;
  /** 0: the server starts from it. */
  boot_index: number | null;
  attached_at: ColumnType<Date | null, Date | null | undefined, Date | null>;
  created_at: CreatedAt;
  detached_at: ColumnType<Date | null, Date | null | undefined, Date | null>;
};

export type VolumeTransfersTable = {
  id: TransferId;
  volume_id: VolumeId;
  name: string | null;
  salt: string;
  /** scrypt of the key that the giver was shown once, with the salt. */
  auth_hash: string;
  no_snapshots: Generated<boolean>;
  source_project_id: ProjectId;
  destination_project_id: ProjectId | null;
  accepted: Generated<boolean>;
  created_at: CreatedAt;
  deleted_at: ColumnType<Date | null, Date | null | undefined, Date | null>;
};

/** Something that failed after its request was answered, told to its project. */
export type MessagesTable = {
  id: string;
  project_id: ProjectId;
  request_id: string | null;
  resource_type: 'VOLUME' | 'VOLUME_SNAPSHOT' | 'VOLUME_BACKUP';
  resource_uuid: string;
  event_id: string;
  message_level: 'ERROR';
  user_message: string;
  created_at: CreatedAt;
  expires_at: ColumnType<Date, Date, never>;
};
