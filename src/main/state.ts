import { chmod, mkdir } from 'node:fs/promises';
import type pg from 'pg';
import type { Config } from '#config/schema.ts';
import { NightlatchError } from '#core/errors.ts';
import type { HostPath } from '#core/ids.ts';
import { connectPool, type Database, migrateToLatest, openDatabase } from '#db/database.ts';
import { startEmbeddedPostgres } from '#main/embedded-postgres.ts';
import { type StatePaths, statePaths } from '#main/state-paths.ts';

/** The database with the current schema, and the data directory around it. */
export type State = AsyncDisposable & {
  readonly paths: StatePaths;
  readonly pool: pg.Pool;
  readonly db: Database;
  /**
   * Settles when this process is no longer sure to be the one that serves, because its connection to PostgreSQL broke.
   * For a visitor it never does.
   */
  readonly lost: Promise<NightlatchError>;
};

/** `serve`: this process is the service, alone. `visit`: it only looks, beside a service that may run or not. */
export type StateUse = 'serve' | 'visit';

/** Any constant: the service holds this PostgreSQL advisory lock while it runs. */
const SERVICE_LOCK = 0x6e6c_7376;

/**
 * Opens the data directory and the database in it, or the configured one. A private PostgreSQL that this call started
 * is stopped again when the scope ends.
 *
 * @throws conflict when another service serves from the same database.
 */
export async function openState(config: Config, use: StateUse): Promise<State> {
  await using undo = new AsyncDisposableStack();
  const paths = statePaths(await prepareDirectory(config.DEFAULT.state_path as HostPath));
  const postgres = await openPostgres(config, paths);
  const pool = connectPool(postgres.address);
  const db = undo.adopt(openDatabase(pool), (opened) => opened.destroy());
  const { lost } = use === 'serve' ? await holdServiceLock(pool, undo) : { lost: new Promise<never>(() => {}) };
  const mayStop = use === 'serve' || postgres.wasStarted;
  await migrateToLatest(db);
  const owned = undo.move();
  const close = async () => {
    await owned.disposeAsync();
    if (mayStop) await postgres.stop();
  };
  return { paths, pool, db, lost, [Symbol.asyncDispose]: close };
}

/** Others may pass through, because PostgreSQL runs under an account of its own; nobody may look inside. */
async function prepareDirectory(path: HostPath): Promise<HostPath> {
  await mkdir(path, { recursive: true, mode: 0o711 });
  await chmod(path, 0o711);
  return path;
}

async function openPostgres(config: Config, paths: StatePaths) {
  const { connection } = config.database;
  if (connection !== '') {
    return { address: { connectionString: connection }, wasStarted: false, stop: async () => {} };
  }
  return await startEmbeddedPostgres(paths.database);
}

type Lost = { readonly lost: Promise<NightlatchError> };

/** PostgreSQL lets go of the lock when the connection ends, so also when the process is killed. */
async function holdServiceLock(pool: pg.Pool, undo: AsyncDisposableStack): Promise<Lost> {
  const client = await pool.connect();
  undo.defer(() => client.release(true));
  const { rows } = await client.query('select pg_try_advisory_lock($1) as held', [SERVICE_LOCK]);
  if (rows[0]?.held !== true) {
    throw new NightlatchError('conflict', {
      reason:
        'Starting the service failed: another one serves from the same database. Stop that one, or choose another state_path.',
    });
  }
  const { promise: lost, resolve } = Promise.withResolvers<NightlatchError>();
  client.once('error', (error) => resolve(connectionLost(error)));
  return { lost };
}

function connectionLost(cause: Error): NightlatchError {
  const reason = `Serving failed: the connection to PostgreSQL broke (${cause.message}). Guests run on. Look at PostgreSQL's log and start the service again.`;
  return new NightlatchError('service-unavailable', { reason }, { cause });
}
