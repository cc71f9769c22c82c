import { type Kysely, sql } from 'kysely';

/** Who had which operation done to a server. */
export async function up(db: Kysely<unknown>): Promise<void> {
  await sql`
    create table instance_actions (
      operation_id text primary key,
      server_id text not null,
      action text not null,
      request_id text not null,
      user_id text not null,
      project_id text not null,
      started_at timestamptz not null default now())`.execute(db);
  await sql`create index instance_actions_by_server on instance_actions (server_id, started_at desc)`.execute(db);
}
