import type { DiskSpec } from '#core/disk.ts';
import type { EncryptionFormat } from '#core/encryption-intent.ts';
import type { HostPath, ImageId, ServerId } from '#core/ids.ts';

/** What a storage driver can do, as plain data; callers branch on it, never on a driver's name. */
export type StorageCapabilities = {
  /** Encryption formats it can carry. */
  readonly formats: readonly EncryptionFormat[];
  /** With which encryption (null: none) a disk from an image shares what the image holds, instead of being a copy. */
  readonly copyOnWrite: readonly (EncryptionFormat | null)[];
  /** What was never written reads as zeros, also of an encrypted disk. */
  readonly zeroUntilWritten: boolean;
  /** Disks are block devices: the kernel can encrypt them, and room is taken whole when they are made. */
  readonly blockDevice: boolean;
};

/** How QEMU and libvirt reach a disk. */
export type DiskAttachment = FileAttachment | RbdAttachment;

/** An image in a pool of a Ceph cluster, whose first byte is the disk's, its header included. */
export type RbdAttachment = { readonly format: 'raw'; readonly rbd: RbdImage };

/** See rbd(8). */
export type RbdImage = {
  readonly pool: string;
  readonly image: string;
  /** Where the cluster is, and with which key we come: see ceph.conf(5). */
  readonly conf: HostPath;
  /** Without `client.`. */
  readonly user: string;
  /** The libvirt secret in which an operator keeps that user's key; where absent, it is read from the keyring. */
  readonly secretUuid?: string;
};

/** A file, or a block device. */
export type FileAttachment = {
  readonly path: HostPath;
  /** QEMU's name of the layer that lies on the medium: `raw` or `qcow2`. */
  readonly format: 'raw' | 'qcow2';
  /** The path is a block device, of which only the first `usedBytes` are the disk's, its header included. `isWhole`: it has no more. */
  readonly blockDevice?: { readonly usedBytes: number; readonly isWhole?: boolean };
};

/** An image that disks can share: a raw file, and whose it is. */
export type BackingImage = { readonly imageId: ImageId; readonly path: HostPath };

/** Bytes of a header, and where in it they belong. */
export type HeaderPart = { readonly at: number; readonly bytes: Buffer };

/** Where a disk's encryption header lies on its medium, in bytes; of length 0 for a format that has none. */
export type HeaderRegion = {
  /** Of which medium, for people: a path. */
  readonly place: string;
  readonly offset: number;
  readonly length: number;
  /** What was noted at the medium when it was made, for a format that has no header to note it in. Nothing secret. */
  readonly note?: string;

  /** The header, or its first `length` bytes: fewer when the medium ends earlier, none when it is gone. */
  read(length?: number): Promise<Buffer>;

  /** Writes parts of it, in whatever order; they are durable on return. *Throws* when the medium is gone or full. */
  write(parts: readonly HeaderPart[]): Promise<void>;
};

/**
 * Keeps disks on one kind of medium. It never holds a key: what must be encrypted is written by an `Encryptor` and by
 * QEMU through what `attachment` returns.
 */
export interface StorageDriver<Attachment extends DiskAttachment = DiskAttachment> {
  readonly capabilities: StorageCapabilities;

  /** Does ahead of time what the first `create` on a host would otherwise wait for. *Repeat*: fine. */
  prepare?(): Promise<void>;

  /**
   * Allocates the medium of a disk: `sizeBytes` usable by the guest, room for the encryption header on top and no
   * header in it yet.
   * `backing`: the image it starts from, for a disk whose encryption is among `copyOnWrite`; such a driver refuses no other.
   *
   * *Repeat*: starts over, whatever was there is replaced; the caller guarantees that the disk was not yet in use.
   * *Crash*: leaves at most an unfinished file that a repeat replaces and `delete` removes.
   * *Throws* disk-full.
   */
  create(disk: DiskSpec, backing: BackingImage | null): Promise<void>;

  /**
   * Makes the medium of `disk` a copy of another disk's, its encryption header included: one of the same storage, size and
   * encryption, that nobody writes meanwhile. What was never written there takes no room here, where media can tell.
   *
   * *Repeat* and *crash* as with `create`. *Throws* disk-full; disk-not-ours where create would.
   */
  copy(from: DiskAttachment, disk: DiskSpec): Promise<void>;

  /** Removes the medium. *Repeat*: a medium that is already gone is fine. */
  delete(disk: DiskSpec): Promise<void>;

  /**
   * Makes room for `disk.sizeBytes`, more than the `hadBytes` it had; what is on it stays, and of a disk that is not encrypted
   * the rest reads as zeros. Only while it is locked.
   * *Repeat*: fine as long as nobody has seen the larger disk. *Throws* disk-full.
   */
  grow(disk: DiskSpec, hadBytes: number): Promise<void>;

  /** How libvirt and QEMU reach the disk. Pure: says nothing of whether the medium exists. */
  attachment(disk: DiskSpec): Attachment;

  /**
   * Where the header of an encrypted disk lies. *Throws* disk-header-missing when the medium is gone or has
   * no place for one; disk-missing when it is gone and the format has no header.
   */
  headerRegion(disk: DiskSpec): Promise<HeaderRegion>;

  /** Removes what it keeps of images, for disks to share, but for these. *Repeat*: fine; what disks share of one that is removed stays. */
  pruneImages?(keep: ReadonlySet<ImageId>): Promise<void>;

  /** Bytes that its disks can have together; where absent, what the file system of the disks directory has. */
  capacityBytes?(): Promise<number>;

  /** The servers that have disks here; where absent, each has a folder in the disks directory. */
  servers?(): Promise<ServerId[]>;
}
