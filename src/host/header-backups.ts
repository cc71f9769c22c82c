import { randomBytes } from 'node:crypto';
import { open, readdir, readFile, rename, rm, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { crashPoint } from '#core/crash-point.ts';
import { chosenHeaderBackup, type DiskSpec, type HeaderBackup } from '#core/disk.ts';
import { type DiskId, type HostPath, isUuid, type SecretId } from '#core/ids.ts';
import { ignoring, makeFolder, removeFolderIfEmpty, syncFolder, tellingDiskFull, writeAll } from '#host/files.ts';

/** One that is kept; whether the disk has it now, this room does not know. */
type Kept = Omit<HeaderBackup, 'isCurrent'> & { readonly path: string };

const NAME = /^(\d{1,9})-([0-9a-f-]{36})$/;
const CHUNK = 4096;
const ZEROS = Buffer.alloc(CHUNK);

/**
 * Copies of disks' headers, in files `<directory>/<disk id>/<version>-<secret id>`: a header with holes where no key needs
 * anything, as `cryptsetup --header` would read it. They lie on the host of the disk and not in the database, because here
 * they can be overwritten: whoever has a header and its secret has the disk, so they go before the secret does.
 */
export class HeaderBackups {
  readonly #directory: HostPath;

  constructor(directory: HostPath) {
    this.#directory = directory;
  }

  /** Keeps a header as the disk's next version, durably. *Repeat*: one that equals the last version is that version. */
  async keep({ id }: Pick<DiskSpec, 'id'>, secretId: SecretId, header: Buffer): Promise<void> {
    const last = (await this.list(id)).at(-1);
    if (last?.secretId === secretId && (await readFile(last.path)).equals(header)) return;
    const folder = this.#folderOf(id);
    await tellingDiskFull(`Keeping the header of disk ${id}`, this.#directory, async () => {
      await makeFolder(this.#directory);
      await makeFolder(folder);
      const path = join(folder, `${(last?.version ?? 0) + 1}-${secretId}`);
      await rm(`${path}.new`, { force: true });
      await writeSparse(`${path}.new`, header);
      await rename(`${path}.new`, path);
      await syncFolder(folder);
    });
    crashPoint('host.header-backups.kept');
  }

  /** Oldest first. */
  async list(disk: DiskId): Promise<Kept[]> {
    const folder = this.#folderOf(disk);
    const names = (await readdir(folder).catch(ignoring('ENOENT'))) ?? [];
    const kept: Kept[] = [];
    for (const name of names) {
      const [, version, secretId] = NAME.exec(name) ?? [];
      if (version === undefined || secretId === undefined) continue;
      const path = join(folder, name);
      const storedAt = (await stat(path)).mtime.toISOString();
      kept.push({ version: Number(version), secretId: secretId as SecretId, storedAt, path });
    }
    return kept.sort((a, b) => a.version - b.version);
  }

  /** The last one, or that of a version. *Throws* header-backup-missing. */
  async find(disk: DiskId, version: number | null): Promise<Kept> {
    return chosenHeaderBackup(disk, await this.list(disk), version);
  }

  /**
   * Overwrites and removes the backups of a disk, durably; `except`: those of this secret stay. Its time does not grow with
   * the disk. *Repeat*: fine.
   */
  async destroy(disk: DiskId, except: SecretId | null = null): Promise<void> {
    const folder = this.#folderOf(disk);
    const names = await readdir(folder).catch(ignoring('ENOENT'));
    if (!names) return;
    // Those of a crash while they were written, too.
    for (const name of names) if (except === null || !name.endsWith(`-${except}`)) await overwrite(join(folder, name));
    await syncFolder(folder);
    await removeFolderIfEmpty(folder);
    await syncFolder(dirname(folder));
  }

  #folderOf(disk: DiskId): string {
    if (!isUuid(disk)) throw new Error('an id that is no UUID must not become a path');
    return join(this.#directory, disk);
  }
}

async function writeSparse(path: string, bytes: Buffer): Promise<void> {
  await using file = await open(path, 'wx', 0o600);
  await file.truncate(bytes.length);
  for (let at = 0; at < bytes.length; at += CHUNK) {
    const chunk = bytes.subarray(at, at + CHUNK);
    if (!chunk.equals(ZEROS.subarray(0, chunk.length))) await writeAll(file, chunk, at);
  }
  await file.sync();
}

/** Only where there is something: holes have nothing to hide, and would take room. */
async function overwrite(path: string): Promise<void> {
  const bytes = await readFile(path);
  {
    await using file = await open(path, 'r+');
    for (let at = 0; at < bytes.length; at += CHUNK) {
      const chunk = bytes.subarray(at, at + CHUNK);
      if (!chunk.equals(ZEROS.subarray(0, chunk.length))) await writeAll(file, randomBytes(chunk.length), at);
    }
    await file.sync();
  }
  await rm(path);
}
