import { type Kysely, sql } from 'kysely';

/** Backups of volumes: each with the secret that opens it, and the layout its bytes have. */
export async function up(db: Kysely<unknown>): Promise<void> {
  await sql`
    create table backups (
      id text primary key,
      volume_id text not null,
      snapshot_id text,
      parent_id text references backups (id),
      project_id text not null,
      user_id text not null,
      name text,
      description text,
      metadata jsonb not null default '{}',
      container text,
      size_gib integer not null,
      status text not null,
      fail_reason text,
      volume_type_id text,
      availability_zone text not null,
      object_count integer not null default 0,
      layout jsonb,
      secret_id text,
      data_at timestamptz not null default now(),
      restored_volume_id text,
      operation jsonb,
      created_at timestamptz not null default now(),
      updated_at timestamptz not null default now(),
      deleted_at timestamptz)`.execute(db);
  await sql`create index backups_by_project on backups (project_id, created_at desc)`.execute(db);
}
