import type { ColumnType, Generated, GeneratedAlways, JSONColumnType } from 'kysely';
import type { DiskOwnerId, DiskRole, DiskStanding, DiskState, StorageFormat } from '#core/disk.ts';
import type { EncryptionFormat, EncryptionIntent } from '#core/encryption-intent.ts';
import type {
  AttachmentId,
  BackendName,
  BackupId,
  DiskId,
  HostName,
  ImageId,
  LeaseId,
  ProjectId,
  SecretId,
  ServerId,
  SnapshotId,
  TransferId,
  UserId,
  VolumeId,
  VolumeTypeId,
} from '#core/ids.ts';
import type { PowerState, TaskState, VmState } from '#core/server.ts';
import type {
  AttachmentStatus,
  BackupStatus,
  SnapshotStatus,
  VolumeEncryption,
  VolumeSource,
  VolumeStatus,
} from '#core/volume.ts';
import type { VolumeBackend } from '#core/volume-backend.ts';
import type { MigrationKind, MigrationStatus } from '#core/volume-migration.ts';

/** A column the database fills at insert and nobody changes. */
type CreatedAt = ColumnType<Date, Date | undefined, never>;
type Time = ColumnType<Date, Date, Date>;
type Strings = Readonly<Record<string, string>>;

/** Every table, as kysely needs it. Units: MiB, GiB and bytes as the column names say; times are UTC. */
export type Schema = {
  projects: ProjectsTable;
  users: UsersTable;
  roles: RolesTable;
  role_assignments: RoleAssignmentsTable;
  tokens: TokensTable;
  images: ImagesTable;
  flavors: FlavorsTable;
  flavor_access: FlavorAccessTable;
  keypairs: KeypairsTable;
  instance_actions: InstanceActionsTable;
  hosts: HostsTable;
  servers: ServersTable;
  disks: DisksTable;
  volume_types: VolumeTypesTable;
  volume_type_access: VolumeTypeAccessTable;
  volume_quotas: VolumeQuotasTable;
  messages: MessagesTable;
  volumes: VolumesTable;
  snapshots: SnapshotsTable;
  volume_attachments: VolumeAttachmentsTable;
  volume_transfers: VolumeTransfersTable;
  volume_migrations: VolumeMigrationsTable;
  backups: BackupsTable;
  secrets: SecretsTable;
  leases: LeasesTable;
  audit_records: AuditRecordsTable;
};

type ProjectsTable = {
  id: ProjectId;
  domain_id: Generated<string>;
  name: string;
  description: Generated<string>;
  enabled: Generated<boolean>;
  created_at: CreatedAt;
};

type UsersTable = {
  id: UserId;
  domain_id: Generated<string>;
  name: string;
  /** scrypt, with its parameters and salt; never the password. */
  password_hash: string | null;
  email: string | null;
  description: Generated<string>;
  default_project_id: ProjectId | null;
  enabled: Generated<boolean>;
  created_at: CreatedAt;
};

type RolesTable = { id: string; name: string };
type RoleAssignmentsTable = { user_id: UserId; project_id: ProjectId; role_id: string };

type TokensTable = {
  /** SHA-256 of the token; the token itself is never stored. */
  hash: Buffer;
  audit_id: string;
  user_id: UserId;
  /** Null: an unscoped token. */
  project_id: ProjectId | null;
  methods: string[];
  issued_at: ColumnType<Date, Date, never>;
  expires_at: ColumnType<Date, Date, never>;
  revoked_at: ColumnType<Date | null, Date | null | undefined, Date | null>;
};

type ImagesTable = {
  id: ImageId;
  project_id: ProjectId;
  name: string | null;
  status: 'queued' | 'saving' | 'active' | 'deactivated' | 'killed' | 'deleted';
  visibility: 'private' | 'public' | 'shared' | 'community';
  disk_format: string | null;
  container_format: string | null;
  min_disk_gib: Generated<number>;
  min_ram_mib: Generated<number>;
  /** Bytes of the stored file. */
  size_bytes: number | null;
  /** Bytes a disk made from it needs. */
  virtual_size_bytes: number | null;
  md5: string | null;
  sha512: string | null;
  properties: JSONColumnType<Strings>;
  tags: string[];
  protected: Generated<boolean>;
  hidden: Generated<boolean>;
  created_at: CreatedAt;
  updated_at: Time;
};

type FlavorsTable = {
  id: string;
  name: string;
  description: string | null;
  vcpus: number;
  ram_mib: number;
  /** 0: as large as the image. */
  root_gib: number;
  ephemeral_gib: number;
  swap_mib: number;
  rxtx_factor: Generated<number>;
  is_public: Generated<boolean>;
  disabled: Generated<boolean>;
  extra_specs: JSONColumnType<Strings>;
  created_at: CreatedAt;
};

type FlavorAccessTable = { flavor_id: string; project_id: ProjectId };

type InstanceActionsTable = {
  operation_id: string;
  server_id: ServerId;
  /** Nova's name of it. */
  action: string;
  request_id: string;
  user_id: UserId;
  project_id: ProjectId;
  started_at: CreatedAt;
};

type KeypairsTable = {
  id: GeneratedAlways<number>;
  user_id: UserId;
  name: string;
  /** A line of authorized_keys(5). */
  public_key: string;
  fingerprint: string;
  created_at: CreatedAt;
};

type HostsTable = {
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

/** What a server keeps of the flavor it was made from, so that the flavor may change or go. */
export type ServerFlavor = {
  readonly id: string;
  readonly name: string;
  readonly vcpus: number;
  readonly ramMib: number;
  readonly rootGib: number;
  readonly ephemeralGib: number;
  readonly swapMib: number;
  readonly extraSpecs: Strings;
};

export type ServerFault = {
  readonly code: number;
  readonly message: string;
  readonly created: string;
};

/** The operation under way on a server: enough to start it again if the process died before the engine recorded it. */
export type PendingOperation = { readonly id: string; readonly name: string; readonly input: unknown };

/** What a resize or a rebuild is going to make of a server, kept until its disks are exchanged. */
export type ServerReplacement = {
  /** Columns that change as one with the disks. */
  readonly columns: {
    readonly flavor?: ServerFlavor;
    readonly image_id?: ImageId;
    readonly name?: string;
    readonly description?: string | null;
    readonly metadata?: Strings;
    readonly user_data?: string | null;
    readonly config_drive?: boolean;
    readonly hostname?: string;
    readonly key_name?: string | null;
    readonly public_key?: string | null;
    readonly disk_config?: 'AUTO' | 'MANUAL';
    readonly access_ipv4?: string | null;
    readonly access_ipv6?: string | null;
  };
  /** Of a rebuild: what the new disks are to be. Null: a resize. */
  readonly rebuild: { readonly imageBytes: number; readonly intent: EncryptionIntent } | null;
};

type ServersTable = {
  id: ServerId;
  /** Makes the name `instance-%08x`, as Nova does. */
  number: Generated<number>;
  project_id: ProjectId;
  user_id: UserId;
  name: string;
  description: string | null;
  image_id: ImageId | null;
  flavor: JSONColumnType<ServerFlavor>;
  /** While a resize can be reverted: the flavor it had before, and the state it goes back to. */
  old_flavor: JSONColumnType<ServerFlavor | null, string | null | undefined, string | null>;
  old_vm_state: VmState | null;
  /** While it is resized or rebuilt, until its disks are exchanged: what it is going to be. */
  replacement: JSONColumnType<ServerReplacement | null, string | null | undefined, string | null>;
  /** While it is shelved: the image of its root disk. */
  shelved_image_id: ImageId | null;
  shelved_at: ColumnType<Date | null, Date | null | undefined, Date | null>;
  metadata: JSONColumnType<Strings>;
  tags: Generated<string[]>;
  user_data: string | null;
  config_drive: boolean;
  network: 'none' | 'user';
  key_name: string | null;
  /** Of that name, when the server was given it. */
  public_key: Generated<string | null>;
  reservation_id: string;
  /** Who locked it against changes; null: nobody. An admin's lock only an admin opens. */
  locked_by: 'owner' | 'admin' | null;
  locked_reason: string | null;
  /** What the guest is to call itself; null: made from the name. */
  hostname: string | null;
  /** Position among the servers of one request, from 0. */
  launch_index: Generated<number>;
  disk_config: Generated<'AUTO' | 'MANUAL'>;
  access_ipv4: string | null;
  access_ipv6: string | null;
  vm_state: VmState;
  task_state: TaskState | null;
  power_state: PowerState;
  host: HostName | null;
  fault: JSONColumnType<ServerFault | null, ServerFault | null, ServerFault | null>;
  operation: JSONColumnType<PendingOperation | null, string | null, string | null>;
  created_at: CreatedAt;
  updated_at: Time;
  launched_at: ColumnType<Date | null, Date | null | undefined, Date | null>;
  terminated_at: ColumnType<Date | null, Date | null | undefined, Date | null>;
};

type DisksTable = {
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

/** How volumes of a type are encrypted. Times as ISO 8601. */
export type VolumeTypeEncryption = VolumeEncryption & {
  readonly id: string;
  readonly createdAt: string;
  readonly updatedAt: string | null;
};

type VolumeTypesTable = {
  id: VolumeTypeId;
  name: string;
  description: string | null;
  is_public: Generated<boolean>;
  /** Null is a value there too: clients may set it. */
  extra_specs: JSONColumnType<Readonly<Record<string, string | null>>>;
  /** Null: its volumes are not encrypted. */
  encryption: JSONColumnType<VolumeTypeEncryption | null, string | null | undefined, string | null>;
  created_at: CreatedAt;
  updated_at: ColumnType<Date | null, Date | null | undefined, Date | null>;
};

type VolumeTypeAccessTable = { volume_type_id: VolumeTypeId; project_id: ProjectId };

type VolumeQuotasTable = {
  /** A limit of one project, or of all that have none of their own: the class `default`. */
  kind: 'project' | 'class';
  owner: string;
  /** Such as `volumes` or, of one volume type, `volumes_fast`. */
  resource: string;
  /** -1: none. */
  hard_limit: number;
};

/** Something that failed after its request was answered, told to its project. */
type MessagesTable = {
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

type VolumesTable = {
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

type VolumeMigrationsTable = {
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

type SnapshotsTable = {
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

type VolumeAttachmentsTable = {
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

type VolumeTransfersTable = {
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

/** How the bytes of a backup lay on their medium. `sizeBytes`: what of it was usable. */
export type BackupLayout = {
  readonly storage: StorageFormat;
  readonly encryption: EncryptionFormat | null;
  readonly sizeBytes: number;
};

type BackupsTable = {
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

type SecretsTable = {
  id: SecretId;
  project_id: ProjectId;
  /** What the secret is for, unique: storing again under the same label finds the first. */
  label: string;
  name: string;
  /** AES-256-GCM under the root key named `root_key_id`: nonce, ciphertext, tag. */
  nonce: Buffer;
  wrapped: Buffer;
  root_key_id: string;
  created_at: CreatedAt;
};

type LeasesTable = {
  id: LeaseId;
  disk_id: DiskId;
  project_id: ProjectId;
  secret_id: SecretId;
  /** The key is that of this image, from which the disk is made. */
  image_id: ImageId | null;
  host: HostName;
  reason: string;
  opened_at: ColumnType<Date, Date, never>;
  closed_at: ColumnType<Date | null, Date | null | undefined, Date | null>;
};

type AuditRecordsTable = {
  sequence: number;
  at: ColumnType<Date, Date, never>;
  event: string;
  /** The record's facts as canonical JSON (RFC 8785), exactly the bytes that were hashed. */
  body: string;
  previous_hash: Buffer;
  hash: Buffer;
};
