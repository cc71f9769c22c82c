import type { DisksTable } from '#db/tables/disks.ts';
import type { HostsTable } from '#db/tables/hosts.ts';
import type { ProjectsTable, RoleAssignmentsTable, RolesTable, TokensTable, UsersTable } from '#db/tables/identity.ts';
import type { ImagesTable } from '#db/tables/images.ts';
import type { AuditRecordsTable, LeasesTable, SecretsTable } from '#db/tables/keys.ts';
import type {
  FlavorAccessTable,
  FlavorsTable,
  InstanceActionsTable,
  KeypairsTable,
  ServersTable,
} from '#db/tables/servers.ts';
import type { BackupsTable, SnapshotsTable } from '#db/tables/snapshots-and-backups.ts';
import type { VolumeQuotasTable, VolumeTypeAccessTable, VolumeTypesTable } from '#db/tables/volume-types.ts';
import type {
  MessagesTable,
  VolumeAttachmentsTable,
  VolumeMigrationsTable,
  VolumesTable,
  VolumeTransfersTable,
} from '#db/tables/volumes.ts';

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
