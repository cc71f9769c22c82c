import { type Kysely, sql } from 'kysely';

/**
 * While a disk is made from an encrypted image, its host holds two keys for it: its own and the image's. A shelved server
 * remembers since when it is.
 */
export async function up(db: Kysely<unknown>): Promise<void> {
  await sql`alter table leases add column image_id text`.execute(db);
  await sql`drop index leases_live`.execute(db);
  await sql`create unique index leases_live on leases (disk_id, secret_id) where closed_at is null`.execute(db);
  await sql`alter table servers add column shelved_at timestamptz`.execute(db);
}
