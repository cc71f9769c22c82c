import { type Kysely, sql } from 'kysely';

/** A disk may belong to a volume or a snapshot as well as to a server, and lie in a volume backend. */
export async function up(db: Kysely<unknown>): Promise<void> {
  await sql`alter table disks drop constraint disks_server_id_fkey`.execute(db);
  await sql`alter table disks rename column server_id to owner_id`.execute(db);
  await sql`alter table disks add column backend text`.execute(db);
}
