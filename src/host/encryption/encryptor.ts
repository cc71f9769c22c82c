import type { DiskSpec } from '#core/disk.ts';
import type { EncryptionFormat } from '#core/encryption-intent.ts';
import type { HostPath } from '#core/ids.ts';
import type { Secret } from '#core/secret.ts';
import type { RekeyHow } from '#host/encryption/rekey-header.ts';
import type { DiskAttachment, HeaderRegion } from '#host/storage/storage-driver.ts';

/** The medium of a disk, as an encryptor needs to know it. */
export type Medium = { readonly attachment: DiskAttachment; readonly header: HeaderRegion };

/** What lies in an encryption header, none of it secret; of a format without one, what is noted at the medium. */
export type HeaderFacts = {
  readonly format: EncryptionFormat;
  readonly version: number;
  readonly uuid: string;
  readonly cipher: string;
  readonly keyBits: number;
  readonly payloadOffsetBytes: number;
  readonly activeKeySlots: readonly number[];
};

/** Makes disks unreadable without their key, and readable with it. */
export interface Encryptor {
  /**
   * Who decrypts for a guest. `qemu`: QEMU itself, given the key; `unlock` is for our own use. `device`: the guest's disk
   * is what `unlock` returns, a block device, unlocked just before the guest starts and locked just after it has ended.
   */
  readonly attach: 'qemu' | 'device';

  /**
   * Writes a fresh header that only `key` opens. Everything that was on the disk becomes unreadable.
   *
   * *Repeat*: writes another header with another volume key; the caller guarantees that the disk holds nothing yet.
   * *Crash*: leaves no header, half a header or a whole one; all three are repaired by a repeat.
   */
  format(disk: DiskSpec, medium: Medium, key: Secret): Promise<void>;

  /**
   * Makes the disk's plaintext readable and writable on this host as a file or a block device of exactly its size;
   * returns its path.
   *
   * *Repeat*: an unlock that is still in force is locked first. *Crash* of the service locks the disk where `attach` is
   * `qemu`; a block device stays until it is locked.
   * *Throws* disk-wrong-key, except for a format that cannot tell; disk-header-missing, disk-missing.
   */
  unlock(disk: DiskSpec, medium: Medium, key: Secret): Promise<HostPath>;

  /** Ends an unlock: flushes, then forgets the key. *Repeat*: a disk that is not unlocked is fine. */
  lock(disk: DiskSpec): Promise<void>;

  /**
   * Wipes the key of a disk that stays open: whoever reads or writes it waits until `resume`. Absent where the key cannot
   * be had back from the one who decrypts. *Repeat*: fine.
   */
  suspend?(disk: DiskSpec): Promise<void>;

  /** Puts the key back; what waited goes on. *Repeat*: a disk that is not suspended is fine. *Throws* disk-wrong-key. */
  resume?(disk: DiskSpec, medium: Medium, key: Secret): Promise<void>;

  /** The disks that are unlocked on this host now, by id, whoever unlocked them. */
  unlocked(): Promise<string[]>;

  /** Reads the header. *Throws* disk-header-missing. */
  inspect(disk: DiskSpec, medium: Medium): Promise<HeaderFacts>;

  /**
   * Makes `to` the only key that opens the disk; what is on it, and its volume key, stay. Whether it is unlocked does not
   * matter. Absent for a format without a header. *Repeat*: a disk that only `to` opens is fine. *Crash*: `from` or `to` opens
   * it, and a repeat goes on. *Throws* disk-wrong-key when neither does; disk-header-missing; disk-full.
   * `how.keep` is given what `keptHeader` will return, before the medium has it. The header of a copy gets another UUID too.
   */
  rekey?(disk: DiskSpec, medium: Medium, from: Secret, to: Secret, how: RekeyHow): Promise<void>;

  /** What `restoreHeader` needs to put the header back. Absent for a format without one. *Throws* disk-header-missing. */
  keptHeader?(disk: DiskSpec, medium: Medium): Promise<Buffer>;

  /**
   * Writes a header that `keptHeader` or `rekey` gave, whatever lies in its place, once `key` has opened it in memory. The disk
   * is locked. *Repeat*: fine. *Crash*: a repeat goes on. *Throws* header-backup-unusable, with nothing written; disk-full.
   */
  restoreHeader?(disk: DiskSpec, medium: Medium, header: Buffer, key: Secret): Promise<void>;

  /** Overwrites the header, durably, so that no key opens the disk ever again. *Repeat*: fine. */
  destroy(disk: DiskSpec, medium: Medium): Promise<void>;
}
