import { execFileSync, spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdir, mkdtemp, open, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { DiskSpec } from '#core/disk.ts';
import { type DiskId, type HostPath, newId, type ServerId } from '#core/ids.ts';
import type { Secret } from '#core/secret.ts';
import { MIB, SECTOR } from '#core/sizes.ts';
import type { Encryptor, Medium } from '#host/encryption/encryptor.ts';
import { luksEncryptor } from '#host/encryption/luks/encryptor.ts';
import { FuseExports } from '#host/fuse-exports.ts';
import { exposePlainDisk } from '#host/storage/plaintext.ts';
import { qcow2Storage } from '#host/storage/qcow2/driver.ts';
import { rawStorage } from '#host/storage/raw/driver.ts';
import type { StorageDriver } from '#host/storage/storage-driver.ts';

/** What a compute host has for its disks, in folders of its own that vanish with the lab. */
export type DiskLab = AsyncDisposable & {
  readonly disksDirectory: HostPath;
  readonly cacheDirectory: HostPath;
  readonly runDirectory: HostPath;
  readonly exports: FuseExports;
  readonly encryptor: Encryptor;
  driver(storage: DiskSpec['storage']): StorageDriver;
};

/** Makes a lab; its run directory is memory-backed. Afterwards every disk is locked and all folders are gone. */
export async function diskLab(disksDirectory?: string, cacheDirectory?: string): Promise<DiskLab> {
  const home = await mkdtemp(join(tmpdir(), 'nightlatch-disks-'));
  const runDirectory = (await mkdtemp('/dev/shm/nightlatch-run-')) as HostPath;
  const at = (name: string) => join(home, name) as HostPath;
  const paths = {
    disksDirectory: (disksDirectory ?? at('disks')) as HostPath,
    cacheDirectory: (cacheDirectory ?? at('cache')) as HostPath,
    runDirectory,
  };
  await mkdir(paths.disksDirectory, { recursive: true });
  await mkdir(paths.cacheDirectory, { recursive: true });
  const exports = new FuseExports({ runDirectory });
  const drivers = { raw: rawStorage(paths), qcow2: qcow2Storage(paths) };
  return {
    ...paths,
    exports,
    encryptor: luksEncryptor({ runDirectory, exports }),
    driver: (storage) => drivers[storage],
    async [Symbol.asyncDispose]() {
      for (const id of await exports.exported()) await exports.withdraw(id);
      await rm(runDirectory, { recursive: true, force: true });
      await rm(home, { recursive: true, force: true });
    },
  };
}

/** A disk of 16 MiB and a little, encrypted unless told otherwise. */
export function someDisk(wanted: Partial<DiskSpec> = {}): DiskSpec {
  return {
    id: newId<DiskId>(),
    serverId: newId<ServerId>(),
    role: 'ephemeral',
    ordinal: 0,
    sizeBytes: 16 * MIB + 512,
    storage: 'raw',
    encryption: 'luks',
    ...wanted,
  };
}

export async function mediumOf(driver: StorageDriver, disk: DiskSpec): Promise<Medium> {
  return { attachment: driver.attachment(disk), header: await driver.headerRegion(disk) };
}

/** Creates a disk's medium and formats it when it is encrypted. */
export async function makeDisk(
  lab: DiskLab,
  disk: DiskSpec,
  key: Secret,
  backing: HostPath | null = null,
): Promise<void> {
  const driver = lab.driver(disk.storage);
  await driver.create(disk, backing);
  if (disk.encryption !== null) await lab.encryptor.format(disk, await mediumOf(driver, disk), key);
}

/** Lends the file that shows what the disk holds; the disk is locked again afterwards. */
export async function withPlaintext<T>(
  lab: DiskLab,
  disk: DiskSpec,
  key: Secret,
  use: (path: HostPath) => T | Promise<T>,
): Promise<T> {
  const driver = lab.driver(disk.storage);
  const path =
    disk.encryption === null
      ? await exposePlainDisk(lab.exports, disk, driver.attachment(disk))
      : await lab.encryptor.unlock(disk, await mediumOf(driver, disk), key);
  try {
    return await use(path);
  } finally {
    await lab.exports.withdraw(disk.id);
  }
}

/** A raw image whose first and last parts are data, with a hole between them. */
export async function makeImage(lab: DiskLab, bytes: number): Promise<HostPath> {
  const path = join(lab.cacheDirectory, `${newId()}.raw`) as HostPath;
  await using file = await open(path, 'wx');
  await file.truncate(bytes);
  await file.write(randomBytes(MIB), 0, MIB, 0);
  await file.write(randomBytes(SECTOR), 0, SECTOR, bytes - SECTOR);
  return path;
}

/** A memory file system of `options`, such as `size=1m`, unmounted when its scope ends. */
export async function smallTmpfs(options: string): Promise<{ path: string } & AsyncDisposable> {
  const path = await mkdtemp(join(tmpdir(), 'nightlatch-small-'));
  execFileSync('mount', ['-t', 'tmpfs', '-o', options, 'nightlatch-test', path]);
  return {
    path,
    async [Symbol.asyncDispose]() {
      execFileSync('umount', [path]);
      await rm(path, { recursive: true });
    },
  };
}

/** The exit status of a program and all it printed. */
export function tell(program: string, ...args: string[]): { status: number | null; text: string } {
  const { status, stdout, stderr } = spawnSync(program, args, { encoding: 'utf8', timeout: 60_000 });
  return { status, text: `${stdout}${stderr}` };
}

/** True when `needle` lies anywhere in the file; holes are read as zeros. */
export async function holds(path: string, needle: string): Promise<boolean> {
  return (await readFile(path)).includes(needle);
}
