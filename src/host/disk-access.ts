import { readFile } from 'node:fs/promises';
import { type DiskSpec, type HeaderBackup, type StorageFormat, serverOfDisk } from '#core/disk.ts';
import type { EncryptionFormat } from '#core/encryption-intent.ts';
import { describeError, NightlatchError } from '#core/errors.ts';
import type { HostPath, SecretId } from '#core/ids.ts';
import type { Secret } from '#core/secret.ts';
import type { Mappings } from '#host/encryption/dm-crypt/mappings.ts';
import type { Encryptor, Medium } from '#host/encryption/encryptor.ts';
import { syncFile } from '#host/files.ts';
import type { FuseExports } from '#host/fuse-exports.ts';
import type { Gate } from '#host/gate.ts';
import type { HeaderBackups } from '#host/header-backups.ts';
import type { DiskKeys, KeyChange } from '#host/host-agent.ts';
import { placeOf } from '#host/storage/attachment.ts';
import { exposePlainDisk } from '#host/storage/plaintext.ts';
import type { DiskAttachment, StorageDriver } from '#host/storage/storage-driver.ts';
import { backendNamed, type LocalBackend } from '#host/volume-backends.ts';

/** What a host keeps disks with and encrypts them with. */
export type DiskParts = {
  /** Of servers' disks. */
  readonly drivers: Readonly<Partial<Record<StorageFormat, StorageDriver>>>;
  /** Of volumes and their snapshots. */
  readonly backends: readonly LocalBackend[];
  readonly encryptors: Readonly<Partial<Record<EncryptionFormat, Encryptor>>>;
  /** Those that go before the others where a storage driver's disks are block devices. */
  readonly blockEncryptors: Readonly<Partial<Record<EncryptionFormat, Encryptor>>>;
  /** What block encryptors keep open; null on a host without device-mapper. */
  readonly mappings: Mappings | null;
  readonly exports: FuseExports;
  /** Of every disk that has a header. */
  readonly headerBackups: HeaderBackups;
  /** Closed while the host is being locked. */
  readonly gate: Gate;
};

/** The disks of a host: for each, the driver that keeps it and the encryptor that opens it. */
export class DiskAccess {
  readonly #parts: DiskParts;

  constructor(parts: DiskParts) {
    this.#parts = parts;
  }

  driver({ backend, storage }: Pick<DiskSpec, 'backend' | 'storage'>): StorageDriver {
    if (backend !== null) return backendNamed(this.#parts.backends, backend, storage).driver;
    const driver = this.#parts.drivers[storage];
    if (!driver) throw new Error(`this host has no storage driver for ${storage}`);
    return driver;
  }

  encryptorFor(driver: StorageDriver, format: EncryptionFormat): Encryptor | undefined {
    const { encryptors, blockEncryptors } = this.#parts;
    return (driver.capabilities.blockDevice ? blockEncryptors[format] : undefined) ?? encryptors[format];
  }

  /** For an encrypted disk. */
  encryptor(disk: DiskSpec): Encryptor {
    if (disk.encryption === null) throw new Error(`disk ${disk.id} is not encrypted`);
    const encryptor = this.encryptorFor(this.driver(disk), disk.encryption);
    if (!encryptor) throw new Error(`this host has no encryptor for ${disk.encryption} on ${disk.storage}`);
    return encryptor;
  }

  /** Whether the guest's disk is what `Encryptor.unlock` returns. */
  isDevice(disk: DiskSpec): boolean {
    return disk.encryption !== null && this.encryptor(disk).attach === 'device';
  }

  /**
   * Makes `to` the only key of an encrypted disk. See `HostAgent.rekeyDisk`. The header it had is not kept when it is that of
   * another disk, whose copy this one is.
   */
  async rekey(disk: DiskSpec, { from, to }: KeyChange, toId: SecretId, isCopy = false): Promise<void> {
    this.checkRekeys(disk);
    const { headerBackups } = this.#parts;
    const encryptor = this.encryptor(disk);
    const medium = await this.medium(disk);
    const isUnkept = !isCopy && (await headerBackups.list(disk.id)).length === 0;
    if (isUnkept) await this.keepHeader(disk);
    const keep = (header: Buffer) => headerBackups.keep(disk, toId, header);
    await encryptor.rekey?.(disk, medium, from, to, { keep, isCopy });
  }

  /** Keeps the header that an encrypted disk has, if its format has one. */
  async keepHeader(disk: DiskSpec): Promise<void> {
    const header = await this.encryptor(disk).keptHeader?.(disk, await this.medium(disk));
    if (!header) return;
    if (disk.secretId === null) throw new Error(`encrypted disk ${disk.id} names no secret to keep its header under`);
    await this.#parts.headerBackups.keep(disk, disk.secretId, header);
  }

  /** See `HostAgent.headerBackups`. */
  async headerBackups(disk: DiskSpec): Promise<readonly HeaderBackup[]> {
    const kept = await this.#parts.headerBackups.list(disk.id);
    const present = kept.length === 0 ? null : await this.#presentHeader(disk);
    const matches = await Promise.all(kept.map(async ({ path }) => present?.equals(await readFile(path)) ?? false));
    return kept.map(({ path: _, ...backup }, i) => ({ ...backup, isCurrent: matches[i] ?? false }));
  }

  /** As `keptHeader`; null: it has none, or one that cannot be read. */
  async #presentHeader(disk: DiskSpec): Promise<Buffer | null> {
    try {
      return (await this.encryptor(disk).keptHeader?.(disk, await this.medium(disk))) ?? null;
    } catch (error) {
      if (isHeaderMissing(error)) return null;
      throw error;
    }
  }

  /** Writes a kept header back to a locked disk. See `HostAgent.restoreHeader`. */
  async restoreHeader(disk: DiskSpec, version: number | null, keys: DiskKeys): Promise<void> {
    const { headerBackups } = this.#parts;
    const { path, secretId } = await headerBackups.find(disk.id, version);
    if (secretId !== disk.secretId) {
      const reason = `it belongs to secret ${secretId}, and the disk to ${disk.secretId}`;
      throw new NightlatchError('header-backup-unusable', { disk: disk.id, reason });
    }
    const header = await readFile(path);
    const present = await this.#presentHeader(disk);
    if (present?.equals(header)) return;
    if (present) await headerBackups.keep(disk, secretId, present);
    const key = needKey(disk, keys.get(disk.id));
    await this.encryptor(disk).restoreHeader?.(disk, await this.medium(disk), header, key);
  }

  /** Destroys the header backups of a disk, but for those of the secret `except`. */
  async forgetHeaders({ id }: DiskSpec, except: SecretId | null): Promise<void> {
    await this.#parts.headerBackups.destroy(id, except);
  }

  /** Whether a disk can be given another key; one that is not encrypted needs none. */
  canRekey(disk: DiskSpec): boolean {
    return disk.encryption === null || this.encryptor(disk).rekey !== undefined;
  }

  /** *Throws* not-implemented when an encrypted disk cannot be given another key. */
  checkRekeys(disk: DiskSpec): void {
    if (this.canRekey(disk)) return;
    const reason = `Rekeying disk ${disk.id} is not possible: format ${disk.encryption} has no header, so that its key is the volume key itself.`;
    throw new NightlatchError('not-implemented', { reason });
  }

  /** Unlocks a disk that its guest sees as a block device; returns that device. */
  async unlockDevice(disk: DiskSpec, keys: DiskKeys): Promise<DiskAttachment> {
    const path = await this.encryptor(disk).unlock(disk, await this.medium(disk), needKey(disk, keys.get(disk.id)));
    return { path, format: 'raw', blockDevice: { usedBytes: disk.sizeBytes, isWhole: true } };
  }

  /** Where that device is. */
  devicePath(disk: DiskSpec): HostPath {
    const { mappings } = this.#parts;
    if (mappings === null) throw new Error(`disk ${disk.id} is a block device on a host that has none`);
    return mappings.pathOf(mappings.nameOf(disk));
  }

  /** What a guest that has the disk has open, as libvirt says it. */
  guestPlace(disk: DiskSpec): string {
    return this.isDevice(disk) ? this.devicePath(disk) : placeOf(this.driver(disk).attachment(disk));
  }

  /** What of a disk's writes this host still has in its cache reaches the medium. A cluster has what QEMU has flushed. */
  async flush(disk: DiskSpec): Promise<void> {
    const attachment = this.driver(disk).attachment(disk);
    if (this.isDevice(disk)) await syncFile(this.devicePath(disk));
    else if (!('rbd' in attachment)) await syncFile(attachment.path);
  }

  /** Makes it as large as its disk is by now, while it is open. *Repeat*: fine. */
  async growDevice(disk: DiskSpec, keys: DiskKeys): Promise<void> {
    const key = needKey(disk, keys.get(disk.id));
    await this.#parts.mappings?.resize(disk, key, `Growing disk ${disk.id}`);
  }

  /** QEMU says that a key opens no disk, and not of which; trying each alone tells. *Throws* disk-wrong-key. */
  async tellingWrongKey(disks: readonly DiskSpec[], keys: DiskKeys, act: () => Promise<void>): Promise<void> {
    try {
      await act();
    } catch (error) {
      if (!/Invalid password/.test(describeError(error))) throw error;
      for (const disk of disks) {
        if (disk.encryption !== null) await this.withPlaintext(disk, keys.get(disk.id) ?? null, async () => {});
      }
      throw error;
    }
  }

  async medium(disk: DiskSpec): Promise<Medium> {
    const driver = this.driver(disk);
    return { attachment: driver.attachment(disk), header: await driver.headerRegion(disk) };
  }

  /**
   * A header that is missing is told as such, with its path and what there is to restore it from, instead of as whatever QEMU
   * makes of it. One of a disk that was made when none were kept is kept from now on.
   */
  async checkHeader(disk: DiskSpec): Promise<void> {
    if (disk.encryption === null) return;
    const { headerBackups } = this.#parts;
    try {
      await this.encryptor(disk).inspect(disk, await this.medium(disk));
    } catch (error) {
      const last = isHeaderMissing(error) ? (await headerBackups.list(disk.id)).at(-1) : undefined;
      if (!last || !(error instanceof NightlatchError)) throw error;
      const backup = `: version ${last.version} of ${last.storedAt} is kept${restoreHint(disk, last.path)}`;
      throw new NightlatchError('disk-header-missing', { ...error.details, backup }, { cause: error });
    }
    if ((await headerBackups.list(disk.id)).length === 0) await this.keepHeader(disk);
  }

  /** A medium that is already gone, or never got its place for a header, has nothing left to destroy. */
  async destroyHeader(disk: DiskSpec): Promise<void> {
    try {
      await this.encryptor(disk).destroy(disk, await this.medium(disk));
    } catch (error) {
      const isGone = isHeaderMissing(error) || (error instanceof NightlatchError && error.code === 'disk-missing');
      if (!isGone) throw error;
    }
  }

  /** Lends the file or device that shows what a disk holds; the disk is locked again afterwards, whatever happens. */
  withPlaintext(disk: DiskSpec, key: Secret | null, use: (path: HostPath) => Promise<void>): Promise<void> {
    return this.#parts.gate.admit(`Unlocking disk ${disk.id}`, () => this.#unlockAndUse(disk, key, use));
  }

  async #unlockAndUse(disk: DiskSpec, key: Secret | null, use: (path: HostPath) => Promise<void>): Promise<void> {
    try {
      const path =
        disk.encryption === null
          ? await exposePlainDisk(this.#parts.exports, disk, this.driver(disk).attachment(disk))
          : await this.encryptor(disk).unlock(disk, await this.medium(disk), needKey(disk, key));
      await use(path);
    } finally {
      await this.lock(disk);
    }
  }

  async lock(disk: DiskSpec): Promise<void> {
    if (disk.encryption === null) await this.#parts.exports.withdraw(disk.id);
    else await this.encryptor(disk).lock(disk);
  }
}

export function needKey(disk: DiskSpec, key: Secret | null | undefined): Secret {
  if (!key) throw new Error(`encrypted disk ${disk.id} was given no key`);
  return key;
}

function isHeaderMissing(error: unknown): boolean {
  return error instanceof NightlatchError && error.code === 'disk-header-missing';
}

/** What an operator does to have a disk's header back. */
function restoreHint(disk: DiskSpec, path: string): string {
  return serverOfDisk(disk) === null ? `. Run "nightlatch volume header restore ${disk.ownerId}"` : ` in ${path}`;
}
