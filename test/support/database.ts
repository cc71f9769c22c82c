import { chmod, mkdtemp, rm } from 'node:fs/promises';
import { join } from 'node:path';
import type pg from 'pg';
import { connectPool, type Database, migrateToLatest, openDatabase } from '#db/database.ts';
import { startEmbeddedPostgres } from '#main/embedded-postgres.ts';

export type TestDatabase = AsyncDisposable & {
  readonly db: Database;
  readonly pool: pg.Pool;
  readonly directory: string;
};

/** A private, real PostgreSQL with the current schema; gone when its scope ends. */
export async function startTestDatabase(): Promise<TestDatabase> {
  await using undo = new AsyncDisposableStack();
  const parent = await mkdtemp('/var/tmp/nightlatch-test-');
  undo.defer(() => rm(parent, { recursive: true, force: true }));
  await chmod(parent, 0o755);
  const directory = join(parent, 'pg');
  const postgres = await startEmbeddedPostgres(directory);
  undo.defer(() => postgres.stop());
  const pool = connectPool(postgres.address);
  const db = openDatabase(pool);
  undo.defer(() => db.destroy());
  await migrateToLatest(db);
  const owned = undo.move();
  return { db, pool, directory, [Symbol.asyncDispose]: () => owned.disposeAsync() };
}
