import { type Kysely, sql } from 'kysely';

/** Keeps apart a volume nobody called readonly from one that was called writable; and how far a snapshot was said to be. */
export async function up(db: Kysely<unknown>): Promise<void> {
  await sql`alter table volumes alter column readonly drop default, alter column readonly drop not null`.execute(db);
  await sql`update volumes set readonly = null where not readonly`.execute(db);
  await sql`alter table snapshots add column progress text`.execute(db);
}
