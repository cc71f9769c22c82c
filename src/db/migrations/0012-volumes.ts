import { type Kysely, sql } from 'kysely';

/** Volumes, their snapshots, what they are attached to, and offers to give them away. */
export async function up(db: Kysely<unknown>): Promise<void> {
  for (const statement of statements) await sql.raw(statement).execute(db);
}

const statements = [
  `create table volumes (
    id text primary key,
    project_id text not null,
    user_id text not null,
    name text,
    description text,
    size_gib integer not null,
    status text not null,
    previous_status text,
    volume_type_id text,
    encryption jsonb,
    availability_zone text not null,
    metadata jsonb not null default '{}',
    image_metadata jsonb,
    bootable boolean not null default false,
    readonly boolean not null default false,
    source jsonb not null,
    host text,
    backend text,
    migration_status text,
    operation jsonb,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    launched_at timestamptz,
    deleted_at timestamptz)`,
  `create index volumes_by_project on volumes (project_id, created_at desc)`,
  `create index volumes_by_type on volumes (volume_type_id) where deleted_at is null`,
  `create table snapshots (
    id text primary key,
    volume_id text not null references volumes (id),
    project_id text not null,
    user_id text not null,
    name text,
    description text,
    size_gib integer not null,
    status text not null,
    metadata jsonb not null default '{}',
    operation jsonb,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    deleted_at timestamptz)`,
  `create index snapshots_by_volume on snapshots (volume_id) where deleted_at is null`,
  `create table volume_attachments (
    id text primary key,
    volume_id text not null references volumes (id),
    server_id text references servers (id),
    status text not null,
    device text,
    mode text not null default 'rw',
    connector jsonb,
    delete_on_termination boolean not null default false,
    boot_index integer,
    attached_at timestamptz,
    created_at timestamptz not null default now(),
    detached_at timestamptz)`,
  // A volume is attached once at a time, and a server has one thing under each of its device names.
  `create unique index volume_attachments_live on volume_attachments (volume_id) where detached_at is null`,
  `create unique index volume_attachments_device on volume_attachments (server_id, device)
    where detached_at is null and server_id is not null`,
  `create table volume_transfers (
    id text primary key,
    volume_id text not null references volumes (id),
    name text,
    salt text not null,
    auth_hash text not null,
    no_snapshots boolean not null default false,
    source_project_id text not null,
    destination_project_id text,
    accepted boolean not null default false,
    created_at timestamptz not null default now(),
    deleted_at timestamptz)`,
  `create unique index volume_transfers_live on volume_transfers (volume_id) where deleted_at is null`,
  // While a disk is rekeyed: the secret that is to open it, and after that the one that did, until it is destroyed.
  `alter table disks add column other_secret_id text`,
];
