import type { DiskSpec, StorageFormat } from '#core/disk.ts';
import type { EncryptionFormat } from '#core/encryption-intent.ts';
import { describeError, NightlatchError } from '#core/errors.ts';
import type { HostPath } from '#core/ids.ts';
import type { Secret } from '#core/secret.ts';
import type { Mappings } from '#host/encryption/dm-crypt/mappings.ts';
import type { Encryptor, Medium } from '#host/encryption/encryptor.ts';
import type { FuseExports } from '#host/fuse-exports.ts';
import type { Gate } from '#host/gate.ts';
import type { DiskKeys, KeyChange } from '#host/host-agent.ts';
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

  /** Makes `to` the only key of an encrypted disk. See `HostAgent.rekeyDisk`. */
  async rekey(disk: DiskSpec, { from, to }: KeyChange): Promise<void> {
    this.checkRekeys(disk);
    await this.encryptor(disk).rekey?.(disk, await this.medium(disk), from, to);
  }

  /** *Throws* not-implemented when an encrypted disk cannot be given another key. */
  checkRekeys(disk: DiskSpec): void {
    if (disk.encryption === null || this.encryptor(disk).rekey) return;
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

  /** A header that is missing is told as such, with its path, instead of as whatever QEMU makes of it. */
  async checkHeader(disk: DiskSpec): Promise<void> {
    if (disk.encryption !== null) await this.encryptor(disk).inspect(disk, await this.medium(disk));
  }

  /** A medium that is already gone, or never got its place for a header, has nothing left to destroy. */
  async destroyHeader(disk: DiskSpec): Promise<void> {
    try {
      await this.encryptor(disk).destroy(disk, await this.medium(disk));
    } catch (error) {
      const isGone = error instanceof NightlatchError && /^disk-(header-)?missing$/.test(error.code);
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
