import { type Kysely, sql } from 'kysely';

/** Whether a disk is encrypted may be left to the host that it is placed on. */
export async function up(db: Kysely<unknown>): Promise<void> {
  await sql`alter table disks alter column encrypted drop not null`.execute(db);
  await sql`alter table hosts add column undecided_encryption_format text`.execute(db);
}
