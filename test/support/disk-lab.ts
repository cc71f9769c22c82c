import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { readFileSync, realpathSync, statSync } from 'node:fs';
import { mkdir, mkdtemp, open, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { type DiskSpec, fileFormats, type StorageFormat } from '#core/disk.ts';
import type { EncryptionFormat } from '#core/encryption-intent.ts';
import { type DiskId, type HostPath, newId, type SecretId, type ServerId } from '#core/ids.ts';
import type { Secret } from '#core/secret.ts';
import { MIB, SECTOR } from '#core/sizes.ts';
import { kernelLuksEncryptor } from '#host/encryption/dm-crypt/kernel-luks.ts';
import { luks2Encryptor } from '#host/encryption/dm-crypt/luks2.ts';
import { Mappings } from '#host/encryption/dm-crypt/mappings.ts';
import { plainEncryptor, plainNote } from '#host/encryption/dm-crypt/plain.ts';
import type { Encryptor, Medium } from '#host/encryption/encryptor.ts';
import { luksEncryptor } from '#host/encryption/luks/encryptor.ts';
import { FuseExports } from '#host/fuse-exports.ts';
import { grantPrivilege } from '#host/grant.ts';
import { placeOf } from '#host/storage/attachment.ts';
import { defaultClearing } from '#host/storage/lvm/clear.ts';
import { lvmStorage } from '#host/storage/lvm/driver.ts';
import { exposePlainDisk } from '#host/storage/plaintext.ts';
import { qcow2Storage } from '#host/storage/qcow2/driver.ts';
import { rawStorage } from '#host/storage/raw/driver.ts';
import { rbdStorage } from '#host/storage/rbd/driver.ts';
import type { Pool } from '#host/storage/rbd/images.ts';
import type { DiskAttachment, FileAttachment, StorageDriver } from '#host/storage/storage-driver.ts';
import { pool } from '#test/support/pool.ts';

const NO_POOL: Pool = { conf: '/nonexistent' as HostPath, user: '', name: '' };

/**
 * The drivers to test and the formats to test on them: those of any machine, or logical volumes where there is a volume
 * group for tests (NIGHTLATCH_TEST_VOLUME_GROUP, with or without NIGHTLATCH_TEST_THIN_POOL), as in the second kernel, or images
 * in the pool of a cluster for tests.
 */
export const storageUnderTest: readonly StorageFormat[] = process.env.NIGHTLATCH_TEST_VOLUME_GROUP
  ? ['lvm']
  : pool !== null
    ? ['rbd']
    : fileFormats;
export const formatsUnderTest: readonly EncryptionFormat[] = process.env.NIGHTLATCH_TEST_VOLUME_GROUP
  ? ((process.env.NIGHTLATCH_TEST_FORMATS ?? 'luks,luksv2,plain').split(',') as EncryptionFormat[])
  : ['luks'];
/** Who opens LUKSv1: QEMU, or the kernel. */
export const engineUnderTest = process.env.NIGHTLATCH_TEST_LUKS_ENGINE === 'dm-crypt' ? 'dm-crypt' : 'qemu';

/** By how much a suite may take longer on logical volumes: in a second kernel a new process is dear. */
export const patienceWith = (storage: StorageFormat) => (storage === 'lvm' ? 6 : 1);

/** Whether disks without encryption are tested too; on logical volumes they need FUSE. */
export const isClearTested = process.env.NIGHTLATCH_TEST_CLEAR !== 'no';
/** The socket of the root helper that does what needs root. */
const rootHelper = process.env.NIGHTLATCH_TEST_ROOT_HELPER;

/** What a compute host has for its disks, in folders of its own that vanish with the lab. */
export type DiskLab = AsyncDisposable & {
  readonly disksDirectory: HostPath;
  readonly cacheDirectory: HostPath;
  readonly runDirectory: HostPath;
  readonly exports: FuseExports;
  readonly mappings: Mappings;
  /** LUKSv1 by QEMU. */
  readonly encryptor: Encryptor;
  encryptorOf(format: EncryptionFormat): Encryptor;
  driver<Storage extends StorageFormat>(
    storage: Storage,
  ): Storage extends 'rbd' ? StorageDriver : StorageDriver<FileAttachment>;
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
  const group = process.env.NIGHTLATCH_TEST_VOLUME_GROUP ?? '';
  const thinPool = process.env.NIGHTLATCH_TEST_THIN_POOL ?? null;
  grantPrivilege({
    directories: [paths.disksDirectory, runDirectory],
    volumeGroups: group === '' ? [] : [group],
    thinPools: thinPool === null ? [] : [thinPool],
    ...(rootHelper ? { helper: rootHelper as HostPath } : {}),
  });
  const drivers = {
    raw: rawStorage(paths),
    qcow2: qcow2Storage(paths),
    lvm: lvmStorage({ volumeGroup: group, thinPool, noteOf: testNote, clearing: defaultClearing }),
    rbd: rbdStorage({ pool: pool ?? NO_POOL, runDirectory }),
  };
  const luks = luksEncryptor({ runDirectory, exports });
  const mappings = new Mappings();
  const plainOptions = { noReadWorkqueue: false, noWriteWorkqueue: false };
  const encryptors = {
    luks: engineUnderTest === 'dm-crypt' ? kernelLuksEncryptor(luks, mappings, plainOptions) : luks,
    luksv2: luks2Encryptor(mappings, plainOptions, runDirectory),
    plain: plainEncryptor(mappings, plainOptions),
  };
  return {
    ...paths,
    exports,
    mappings,
    encryptor: luks,
    encryptorOf: (format) => encryptors[format],
    driver: (storage) => drivers[storage] as never,
    async [Symbol.asyncDispose]() {
      for (const id of await exports.exported()) await exports.withdraw(id);
      if (group !== '') for (const { name } of await mappings.list()) await mappings.close(name, 'Clearing the lab');
      await rm(runDirectory, { recursive: true, force: true });
      await rm(home, { recursive: true, force: true });
    },
  };
}

function testNote(disk: DiskSpec): string | null {
  return disk.encryption === 'plain' ? plainNote(disk, { cipher: 'aes-xts-plain64', keyBits: 512 }) : null;
}

/** A disk of 16 MiB and a little, encrypted unless told otherwise. */
export function someDisk(wanted: Partial<DiskSpec> = {}): DiskSpec {
  return {
    id: newId<DiskId>(),
    ownerId: newId<ServerId>(),
    backend: null,
    role: 'ephemeral',
    ordinal: 0,
    generation: 0,
    sizeBytes: 16 * MIB + 512,
    storage: 'raw',
    encryption: 'luks',
    secretId: newId<SecretId>(),
    ...wanted,
  };
}

export async function mediumOf(driver: StorageDriver, disk: DiskSpec): Promise<Medium> {
  return { attachment: driver.attachment(disk), header: await driver.headerRegion(disk) };
}

/** All bytes of a medium, read past the service. */
export function bytesOf(attachment: DiskAttachment): Buffer {
  if (!('rbd' in attachment)) return readFileSync(attachment.path);
  const { conf, user } = attachment.rbd;
  const args = ['--conf', conf, '--id', user, 'export', '--no-progress', placeOf(attachment), '-'];
  return execFileSync('rbd', args, { maxBuffer: 2 ** 30, stdio: ['ignore', 'pipe', 'pipe'] });
}

/** What `rbd` tells, or does, in the pool for tests. */
export function rbd(...args: string[]): string {
  assert.ok(pool);
  const { status, text } = tell('rbd', '--conf', pool.conf, '--id', pool.user, ...args);
  assert.equal(status, 0, text);
  return text;
}

/** Creates a disk's medium and formats it when it is encrypted. */
export async function makeDisk(
  lab: DiskLab,
  disk: DiskSpec,
  key: Secret,
  backing: HostPath | null = null,
): Promise<void> {
  const driver = lab.driver(disk.storage);
  await driver.create(disk, backing && { imageId: newId(), path: backing });
  if (disk.encryption !== null) await lab.encryptorOf(disk.encryption).format(disk, await mediumOf(driver, disk), key);
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
      : await lab.encryptorOf(disk.encryption).unlock(disk, await mediumOf(driver, disk), key);
  try {
    return await use(path);
  } finally {
    if (disk.encryption === null) await lab.exports.withdraw(disk.id);
    else await lab.encryptorOf(disk.encryption).lock(disk);
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

/** Logical volumes are; what a file-backed driver promises of files does not apply to them. */
export function isBlockDevice(storage: StorageFormat): boolean {
  return storage === 'lvm';
}

/** Bytes of a file or a block device. */
export function sizeOf(path: string): number {
  const facts = statSync(path);
  if (!facts.isBlockDevice()) return facts.size;
  return Number(readFileSync(`/sys/class/block/${basename(realpathSync(path))}/size`, 'utf8')) * SECTOR;
}

/** True when `needle` lies anywhere in the file; holes are read as zeros. */
export async function holds(path: string, needle: string): Promise<boolean> {
  return (await readFile(path)).includes(needle);
}
