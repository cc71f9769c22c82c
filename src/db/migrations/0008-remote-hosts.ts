import { type Kysely, sql } from 'kysely';

/** A host may be another machine: where its agent listens, and the one certificate that it is known by. */
export async function up(db: Kysely<unknown>): Promise<void> {
  await sql`
    alter table hosts
      add column address text,
      add column certificate text`.execute(db);
}
