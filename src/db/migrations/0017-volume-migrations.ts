import { type Kysely, sql } from 'kysely';

/** How the last move of a volume's data to another disk is, or how it ended. */
export async function up(db: Kysely<unknown>): Promise<void> {
  await sql`
    create table volume_migrations (
      volume_id text primary key references volumes (id),
      kind text not null,
      status text not null,
      copied_bytes bigint,
      total_bytes bigint,
      bytes_per_second bigint not null,
      reason text,
      created_at timestamptz not null default now(),
      updated_at timestamptz not null default now())`.execute(db);
}
