import { type Kysely, sql } from 'kysely';

/** What the compute API lets a user say of a server, besides what makes it. */
export async function up(db: Kysely<unknown>): Promise<void> {
  await sql`
    alter table servers
      add column hostname text,
      add column launch_index integer not null default 0,
      add column disk_config text not null default 'AUTO',
      add column access_ipv4 text,
      add column access_ipv6 text,
      add column locked_by text,
      add column locked_reason text`.execute(db);
  await sql`update servers set locked_by = 'owner' where locked`.execute(db);
  await sql`alter table servers drop column locked`.execute(db);
}
