import { Kysely, PostgresDialect, type Transaction } from 'kysely';
import { Migrator } from 'kysely/migration';
import pg from 'pg';
import { migrations } from '#db/migrations/index.ts';
import type { Schema } from '#db/schema.ts';

export type Database = Kysely<Schema>;
/** A database or a transaction on it: what a query needs. */
export type Queryable = Database | Transaction<Schema>;

/** Where PostgreSQL listens: a `postgresql://` address, or the directory of its UNIX socket. */
export type DatabaseAddress =
  | { readonly connectionString: string }
  | { readonly host: string; readonly user: string; readonly database: string };

const POOL_SIZE = 20;

// Sizes in bytes pass 2^31; they stay far below 2^53, so numbers hold them exactly.
pg.types.setTypeParser(pg.types.builtins.INT8, Number);

/** A pool of connections to PostgreSQL. One that breaks is replaced; who used it learns of it by the next query. */
export function connectPool(address: DatabaseAddress): pg.Pool {
  const pool = new pg.Pool({ ...address, max: POOL_SIZE });
  pool.on('error', () => {});
  // The pool listens to idle connections only, and an error that nobody listens to ends the process.
  pool.on('connect', (client) => client.on('error', () => {}));
  return pool;
}

/** The schema over a pool. Destroying it ends the pool. */
export function openDatabase(pool: pg.Pool): Database {
  return new Kysely<Schema>({ dialect: new PostgresDialect({ pool }) });
}

/** Whether a write failed because another row has what is to be unique. See PostgreSQL, appendix A, 23505. */
export function isDuplicate(error: unknown): boolean {
  return error instanceof pg.DatabaseError && error.code === '23505';
}

/** Brings the schema up to date. *Repeat*: fine; concurrent callers wait for each other. */
export async function migrateToLatest(db: Database): Promise<void> {
  const migrator = new Migrator({ db, provider: { getMigrations: async () => migrations } });
  const { error } = await migrator.migrateToLatest();
  if (error) throw error;
}
