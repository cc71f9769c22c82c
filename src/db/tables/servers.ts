import type { ColumnType, Generated, GeneratedAlways, JSONColumnType } from 'kysely';
import type { EncryptionIntent } from '#core/encryption-intent.ts';
import type { HostName, ImageId, ProjectId, ServerId, UserId } from '#core/ids.ts';
import type { PowerState, TaskState, VmState } from '#core/server.ts';
import type { CreatedAt, PendingOperation, Strings, Time } from '#db/tables/columns.ts';

export type FlavorsTable = {
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

export type FlavorAccessTable = { flavor_id: string; project_id: ProjectId };

export type KeypairsTable = {
  id: GeneratedAlways<number>;
  user_id: UserId;
  name: string;
  /** A line of authorized_keys(5). */
  public_key: string;
  fingerprint: string;
  created_at: CreatedAt;
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

export type ServersTable = {
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

export type InstanceActionsTable = {
  operation_id: string;
  server_id: ServerId;
  /** Nova's name of it. */
  action: string;
  request_id: string;
  user_id: UserId;
  project_id: ProjectId;
  started_at: CreatedAt;
};
