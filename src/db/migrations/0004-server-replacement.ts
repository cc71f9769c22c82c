import { type Kysely, sql } from 'kysely';

/** What a resize or a rebuild under way is going to make of a server. */
export async function up(db: Kysely<unknown>): Promise<void> {
  await sql`alter table servers add column replacement jsonb`.execute(db);
}
