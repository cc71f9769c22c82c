import { type Kysely, sql } from 'kysely';

/** Volume types, how much of block storage a project may use, and messages about what failed there. */
export async function up(db: Kysely<unknown>): Promise<void> {
  for (const statement of statements) await sql.raw(statement).execute(db);
}

const statements = [
  `create table volume_types (
    id text primary key,
    name text not null unique,
    description text,
    is_public boolean not null default true,
    extra_specs jsonb not null default '{}',
    encryption jsonb,
    created_at timestamptz not null default now(),
    updated_at timestamptz)`,
  // There is always one, for volumes that are created without.
  `insert into volume_types (id, name, description)
    values (gen_random_uuid()::text, '__DEFAULT__', 'Default Volume Type')`,
  `create table volume_type_access (
    volume_type_id text not null references volume_types (id) on delete cascade,
    project_id text not null,
    primary key (volume_type_id, project_id))`,
  // Owner: a project's id, or the name of a quota class.
  `create table volume_quotas (
    kind text not null check (kind in ('project', 'class')),
    owner text not null,
    resource text not null,
    hard_limit integer not null,
    primary key (kind, owner, resource))`,
  `create table messages (
    id text primary key,
    project_id text not null,
    request_id text,
    resource_type text not null,
    resource_uuid text not null,
    event_id text not null,
    message_level text not null,
    user_message text not null,
    created_at timestamptz not null default now(),
    expires_at timestamptz not null)`,
  `create index messages_by_project on messages (project_id, created_at desc)`,
];
