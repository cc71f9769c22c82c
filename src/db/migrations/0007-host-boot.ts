import { type Kysely, sql } from 'kysely';

/** Which boot of a host its servers' rows speak of. */
export async function up(db: Kysely<unknown>): Promise<void> {
  await sql`alter table hosts add column boot_id text`.execute(db);
}
