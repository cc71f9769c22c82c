import { type Kysely, sql } from 'kysely';

/** Where on a host volumes lie. */
export async function up(db: Kysely<unknown>): Promise<void> {
  await sql`alter table hosts add column volume_backends jsonb not null default '[]'`.execute(db);
}
