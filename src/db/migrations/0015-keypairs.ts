import { type Kysely, sql } from 'kysely';

/** Public keys of users, and the one a server was given, which outlives them. */
export async function up(db: Kysely<unknown>): Promise<void> {
  await sql`
    create table keypairs (
      id integer generated always as identity,
      user_id text not null,
      name text collate "C" not null,
      public_key text not null,
      fingerprint text not null,
      created_at timestamptz not null default now(),
      primary key (user_id, name))`.execute(db);
  await sql`alter table servers add column public_key text`.execute(db);
}
