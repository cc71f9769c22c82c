import type { DiskSpec } from '#core/disk.ts';
import type { EncryptionFormat } from '#core/encryption-intent.ts';
import type { HostPath } from '#core/ids.ts';

/** What a storage driver can do, as plain data; callers branch on it, never on a driver's name. */
export type StorageCapabilities = {
  /** Encryption formats it can carry. */
  readonly formats: readonly EncryptionFormat[];
  /** A disk from an image starts as an overlay over the cached image instead of a copy. */
  readonly copyOnWrite: boolean;
};

/** How QEMU and libvirt reach a disk. */
export type DiskAttachment = {
  readonly path: HostPath;
  /** QEMU's name of the layer that lies on the medium: `raw` or `qcow2`. */
  readonly format: 'raw' | 'qcow2';
};

/** Where a disk's encryption header lies on its medium, in bytes. */
export type HeaderRegion = { readonly path: HostPath; readonly offset: number; readonly length: number };

/**
 * Keeps disks on one kind of medium. It never holds a key: what must be encrypted is written by an `Encryptor` and by
 * QEMU through what `attachment` returns.
 */
export interface StorageDriver {
  readonly capabilities: StorageCapabilities;

  /** Does ahead of time what the first `create` on a host would otherwise wait for. *Repeat*: fine. */
  prepare?(): Promise<void>;

  /**
   * Allocates the medium of a disk: `sizeBytes` usable by the guest, room for the encryption header on top and no
   * header in it yet.
   * `backing`: a raw image file the disk starts from, for drivers with `copyOnWrite`; such a driver refuses none other.
   *
   * *Repeat*: starts over, whatever was there is replaced; the caller guarantees that the disk was not yet in use.
   * *Crash*: leaves at most an unfinished file that a repeat replaces and `delete` removes.
   * *Throws* disk-full.
   */
  create(disk: DiskSpec, backing: HostPath | null): Promise<void>;

  /** Removes the medium. *Repeat*: a medium that is already gone is fine. */
  delete(disk: DiskSpec): Promise<void>;

  /** How libvirt and QEMU reach the disk. Pure: says nothing of whether the medium exists. */
  attachment(disk: DiskSpec): DiskAttachment;

  /** Where the header of an encrypted disk lies. *Throws* disk-header-missing when the medium is gone or has no place for one. */
  headerRegion(disk: DiskSpec): Promise<HeaderRegion>;
}
