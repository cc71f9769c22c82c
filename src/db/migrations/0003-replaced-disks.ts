import { type Kysely, sql } from 'kysely';

/** A server may have a disk and the one that replaces it, and remembers what a resize or a shelve took it from. */
export async function up(db: Kysely<unknown>): Promise<void> {
  await sql`
    alter table disks
      add column generation integer not null default 0,
      add column standing text not null default 'live'`.execute(db);
  await sql`drop index disks_live`.execute(db);
  await sql`
    create unique index disks_live on disks (server_id, role, ordinal, generation)
    where state <> 'destroyed'`.execute(db);
  // At any instant a guest has one disk of each kind, whatever is being replaced.
  await sql`
    create unique index disks_standing on disks (server_id, role, ordinal, standing)
    where state <> 'destroyed'`.execute(db);
  await sql`
    alter table servers
      add column old_flavor jsonb,
      add column old_vm_state text,
      add column shelved_image_id text`.execute(db);
}
