import { createHmac, randomFillSync, randomUUID } from 'node:crypto';
import { constants } from 'node:fs';
import { type FileHandle, link, open, rm } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { NightlatchError } from '#core/errors.ts';
import { allocateKey, Secret } from '#core/secret.ts';

/** Bytes of a root key: an AES-256 key. */
export const ROOT_KEY_BYTES = 32;
/** Name of the systemd credential that may hold the root key. See systemd.exec(5), LoadCredentialEncrypted. */
export const ROOT_KEY_CREDENTIAL = 'nightlatch-root-key';
/** Names a root key file, over what the configuration says. */
export const ROOT_KEY_VARIABLE = 'NIGHTLATCH_ROOT_KEY_FILE';

/** The key that wraps every stored secret, and a name for it that says nothing of its bytes. */
export type RootKey = Disposable & { readonly id: string; readonly key: Secret };

type Source = { readonly path: string; readonly mayBeMade: boolean; readonly ownModeMatters: boolean };

/**
 * Reads the root key: from the file the environment names, else the systemd credential, else the configured file,
 * which is made at the first start.
 *
 * @throws bad-request when the file is open to anyone but its owner, is not 32 bytes long, is no file, or is missing.
 */
export async function readRootKey(configuredFile: string, environment: NodeJS.ProcessEnv): Promise<RootKey> {
  const source = chooseSource(configuredFile, environment);
  if (source.mayBeMade) await makeOnce(source.path);
  await using file = await openKey(source.path);
  await refuseNoFile(file, source.path);
  if (source.ownModeMatters) await refuseOpenMode(file, source.path);
  const key = Secret.adopt(await readExactly(file, source.path));
  return { id: nameOf(key), key, [Symbol.dispose]: () => key[Symbol.dispose]() };
}

function chooseSource(configuredFile: string, environment: NodeJS.ProcessEnv): Source {
  const named = environment[ROOT_KEY_VARIABLE];
  if (named) return { path: named, mayBeMade: false, ownModeMatters: true };
  const credentials = environment.CREDENTIALS_DIRECTORY;
  // systemd guards the credentials directory itself and sets the modes inside it.
  if (credentials) return { path: join(credentials, ROOT_KEY_CREDENTIAL), mayBeMade: false, ownModeMatters: false };
  return { path: configuredFile, mayBeMade: true, ownModeMatters: true };
}

/** Written whole and durable under another name first: a crash leaves no half key. Of two starts at once one wins. */
async function makeOnce(path: string): Promise<void> {
  const unfinished = `${path}.${randomUUID()}.new`;
  const bytes = allocateKey(ROOT_KEY_BYTES);
  randomFillSync(bytes);
  try {
    await using file = await open(unfinished, 'wx', 0o600);
    await file.writeFile(bytes);
    await file.sync();
    await link(unfinished, path);
    await using folder = await open(dirname(path), 'r');
    await folder.sync();
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
  } finally {
    bytes.fill(0);
    await rm(unfinished, { force: true });
  }
}

async function openKey(path: string): Promise<FileHandle> {
  try {
    // Without waiting: a named pipe would hold up the start until someone writes to it.
    return await open(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  } catch (error) {
    throw refuse(path, `it cannot be opened (${(error as NodeJS.ErrnoException).code})`, 'Put the root key there.');
  }
}

async function refuseNoFile(file: FileHandle, path: string): Promise<void> {
  if ((await file.stat()).isFile()) return;
  throw refuse(path, 'it is not a regular file', 'Put the root key there.');
}

async function refuseOpenMode(file: FileHandle, path: string): Promise<void> {
  const { mode, uid } = await file.stat();
  if ((mode & 0o077) !== 0) {
    throw refuse(path, `its mode is ${(mode & 0o777).toString(8).padStart(4, '0')}`, `Run: chmod 0600 ${path}`);
  }
  const me = process.getuid?.();
  if (uid !== me) throw refuse(path, `it belongs to user id ${uid}`, `Run: chown ${me} ${path}`);
}

async function readExactly(file: FileHandle, path: string): Promise<Buffer> {
  const bytes = allocateKey(ROOT_KEY_BYTES);
  const { size } = await file.stat();
  const { bytesRead } = await file.read(bytes, 0, ROOT_KEY_BYTES, 0);
  if (size === ROOT_KEY_BYTES && bytesRead === ROOT_KEY_BYTES) return bytes;
  bytes.fill(0);
  throw refuse(path, `it holds ${size} bytes`, `A root key is ${ROOT_KEY_BYTES} random bytes.`);
}

function refuse(path: string, what: string, hint: string): NightlatchError {
  return new NightlatchError('bad-request', { reason: `The root key file ${path} was refused: ${what}. ${hint}` });
}

function nameOf(key: Secret): string {
  return key.use((bytes) => createHmac('sha256', bytes).update('nightlatch root key id').digest('hex').slice(0, 16));
}
