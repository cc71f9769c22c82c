import { open, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { BackupStore } from '#backups/backup-store.ts';
import { directoryStore } from '#backups/directory-store.ts';
import type { Config } from '#config/schema.ts';
import { NightlatchError } from '#core/errors.ts';
import type { HostPath } from '#core/ids.ts';

/** Name of the systemd credential that may hold the secret key of the object store. */
const SECRET_KEY_CREDENTIAL = 'nightlatch-backup-s3-secret-key';

/**
 * The store for backups that the configuration names. It is not asked for anything yet: guests do not wait for it.
 * @throws bad-request when the configuration lacks what it needs, or a file of secrets is open to others.
 */
export async function openBackupStore(
  config: Config['backup'],
  stateDirectory: HostPath,
  environment: NodeJS.ProcessEnv,
): Promise<BackupStore & Disposable> {
  if (config.backup_driver === 'posix') {
    const store = directoryStore((config.backup_posix_path || stateDirectory) as HostPath);
    return { ...store, [Symbol.dispose]: () => {} };
  }
  for (const name of ['backup_s3_endpoint_url', 'backup_s3_store_access_key'] as const) {
    if (config[name] === '') throw refuse(`[backup] backup_driver is "s3" and ${name} is empty. Set it.`);
  }
  // Only who keeps backups there waits for the client to be read.
  const { s3Store } = await import('#backups/s3-store.ts');
  return s3Store({
    endpointUrl: config.backup_s3_endpoint_url,
    bucket: config.backup_s3_store_bucket,
    region: config.backup_s3_region,
    accessKey: config.backup_s3_store_access_key,
    secretKey: await readSecretKey(config.backup_s3_store_secret_key_file, environment),
    timeoutMs: config.backup_s3_timeout * 1000,
    attempts: config.backup_s3_retry_max_attempts,
    certificates: config.backup_s3_ca_cert_file === '' ? null : await readText(config.backup_s3_ca_cert_file),
  });
}

async function readSecretKey(configuredFile: string, environment: NodeJS.ProcessEnv): Promise<string> {
  const credentials = environment.CREDENTIALS_DIRECTORY;
  const given = credentials ? join(credentials, SECRET_KEY_CREDENTIAL) : null;
  const credential = given === null ? null : await readFile(given, 'utf8').catch(() => null);
  if (credential !== null) return credential.trim();
  if (configuredFile === '') {
    throw refuse(
      `[backup] backup_driver is "s3" and there is no secret key. Put it into a file of mode 0600 and name that in backup_s3_store_secret_key_file, or give the systemd credential ${SECRET_KEY_CREDENTIAL}.`,
    );
  }
  const text = (await readText(configuredFile, (mode) => (mode & 0o077) === 0)).trim();
  if (text === '') throw refuse(`The secret key file ${configuredFile} is empty.`);
  return text;
}

async function readText(path: string, isFit: (mode: number) => boolean = () => true): Promise<string> {
  await using file = await open(path, 'r').catch((error: NodeJS.ErrnoException) => {
    throw refuse(`The file ${path}, which [backup] names, cannot be opened (${error.code}).`);
  });
  const { mode } = await file.stat();
  if (!isFit(mode)) {
    const is = (mode & 0o777).toString(8).padStart(4, '0');
    throw refuse(`The secret key file ${path} was refused: its mode is ${is}. Run: chmod 0600 ${path}`);
  }
  return await file.readFile('utf8');
}

function refuse(reason: string): NightlatchError {
  return new NightlatchError('bad-request', { reason });
}
