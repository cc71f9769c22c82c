import type { FileFormat, HeaderBackup } from '#core/disk.ts';
import type { EncryptionFormat } from '#core/encryption-intent.ts';
import type { BackendName, BackupId, ImageId, ServerId, SnapshotId, VolumeId, VolumeTypeId } from '#core/ids.ts';
import type { Image, ImageVisibility } from '#core/image.ts';
import type { VolumeEncryption, VolumeSource } from '#core/volume.ts';
import type { Backup } from '#db/backups.ts';
import type { Queryable } from '#db/database.ts';
import type { Snapshot } from '#db/snapshots.ts';
import type { Attachment } from '#db/volume-attachments.ts';
import type { Transfer } from '#db/volume-transfers.ts';
import type { VolumeType } from '#db/volume-types.ts';
import type { Volume } from '#db/volumes.ts';
import type { Requester } from '#operations/server-operations.ts';

/** A volume as a user asked for it, already judged: type and source exist and fit. */
export type VolumeRequest = {
  readonly name: string | null;
  readonly description: string | null;
  readonly sizeGib: number;
  readonly volumeTypeId: VolumeTypeId | null;
  /** Null: it is not encrypted. */
  readonly encryption: VolumeEncryption | null;
  readonly format: EncryptionFormat | null;
  readonly availabilityZone: string;
  readonly metadata: Readonly<Record<string, string>>;
  readonly imageMetadata: Readonly<Record<string, string>> | null;
  readonly bootable: boolean;
  readonly source: VolumeSource;
};

/** A snapshot as a user asked for it. `force`: also of a volume that is in use. */
export type SnapshotRequest = {
  readonly name: string | null;
  readonly description: string | null;
  readonly metadata: Readonly<Record<string, string>>;
  readonly force: boolean;
};

/** How a server is to have a volume. */
export type AttachmentRequest = {
  readonly serverId: ServerId;
  /** /dev/vdb and so on; null: the next that is free. */
  readonly device: string | null;
  readonly deleteOnTermination: boolean;
};

/** An offer of a volume, as its giver asked for it. */
export type TransferRequest = { readonly name: string | null; readonly noSnapshots: boolean };

/** A backup as a user asked for it. `force`: also of a volume that is in use. */
export type BackupRequest = {
  readonly name: string | null;
  readonly description: string | null;
  readonly metadata: Readonly<Record<string, string>>;
  readonly container: string | null;
  readonly incremental: boolean;
  readonly force: boolean;
  readonly snapshotId: SnapshotId | null;
};

/** An image of a volume, as a user asked for it. `force`: also of a volume that is in use. */
export type VolumeImageRequest = {
  readonly name: string;
  readonly diskFormat: FileFormat;
  readonly visibility: ImageVisibility;
  readonly isProtected: boolean;
  readonly force: boolean;
  /** Of an encrypted volume: the image has a key of its own, or it is in clear. */
  readonly encryption: 'new' | 'none';
};

/** What a volume is to hold: an image that it has room for, and what the volume is to say of it. */
export type ReimageRequest = {
  readonly imageId: ImageId;
  readonly imageMetadata: Readonly<Record<string, string>>;
  readonly mustEncrypt: boolean;
  /** Also a volume that is reserved. */
  readonly evenReserved: boolean;
};

/** Looks, within the transaction that writes the new thing, whether its project may have it. */
export type Admit = (tx: Queryable) => Promise<void>;

/**
 * What the API may set going on volumes. Each call returns as soon as the operation is durable; it goes on by itself. Of
 * two callers at once exactly one wins, the other gets volume-state or snapshot-state (400).
 */
export interface VolumeOperations {
  create(request: VolumeRequest, requester: Requester, admit: Admit): Promise<Volume>;
  /** `force`: from every status, as an admin may. `cascade`: its snapshots too. *Throws* bad-request while it has some. */
  delete(
    id: VolumeId,
    requester: Requester,
    how: { readonly force: boolean; readonly cascade: boolean },
  ): Promise<void>;
  extend(id: VolumeId, sizeGib: number, requester: Requester, admit: Admit): Promise<void>;
  /** *Throws* server-state (409) where Nova would; volume-elsewhere (400). */
  attach(id: VolumeId, request: AttachmentRequest, requester: Requester): Promise<Attachment>;
  detach(id: VolumeId, serverId: ServerId, requester: Requester): Promise<void>;
  /** Gives a volume another passphrase, also while a guest has it. *Throws* bad-request for one that has none to change. */
  rekey(id: VolumeId, requester: Requester): Promise<void>;
}

/**
 * What may move a volume's data to another disk, also under a guest that has it, which goes on; as with volumes. What a failure
 * or a cancel leaves is the volume as it was.
 */
export interface MigrationOperations {
  /**
   * Gives a volume another type. `mayMove`: also where its data has to move for that. *Throws* bad-request when it is of that
   * type, when it would have to move and may not, or has snapshots.
   */
  retype(id: VolumeId, type: VolumeType, mayMove: boolean, requester: Requester): Promise<void>;
  /** Gives a volume another volume key. `bytesPerSecond`: null: as configured. *Throws* bad-request for one that is not encrypted. */
  reencrypt(id: VolumeId, bytesPerSecond: number | null, requester: Requester): Promise<void>;
  /**
   * Moves a volume to another backend of its host. `isLocked`: one that is available can do nothing else meanwhile. *Throws*
   * bad-request when it lies there, cannot lie there, or has snapshots.
   */
  migrate(id: VolumeId, destination: BackendName, isLocked: boolean, requester: Requester): Promise<void>;
  /** Changes how fast one under way goes under a guest at most; 0: as fast as it goes. *Throws* bad-request when none is. */
  setSpeed(id: VolumeId, bytesPerSecond: number): Promise<void>;
  /** Ends one under way soon. One that comes too late ends well. *Throws* bad-request when none is. */
  cancel(id: VolumeId): Promise<void>;
}

/** What the API may set going on snapshots; as with volumes. */
export interface SnapshotOperations {
  create(id: VolumeId, request: SnapshotRequest, requester: Requester, admit: Admit): Promise<Snapshot>;
  delete(id: SnapshotId, requester: Requester, how: { readonly force: boolean }): Promise<void>;
  /** As `delete`, and returns when that has ended. */
  deleteAndWait(id: SnapshotId, requester: Requester): Promise<void>;
}

/** Giving volumes to other projects. */
export interface TransferOperations {
  /** Offers a volume, with its snapshots, to whoever knows the key that is shown once. */
  offer(id: VolumeId, request: TransferRequest): Promise<{ readonly transfer: Transfer; readonly authKey: string }>;
  /** Takes an offer back. */
  withdraw(transfer: Transfer): Promise<void>;
  /** Makes the volume the requester's, under keys of its own. *Throws* bad-request for a wrong key. */
  accept(transfer: Transfer, authKey: string, requester: Requester, admit: Admit): Promise<void>;
}

/** What the API may set going on backups; as with volumes. */
export interface BackupOperations {
  /** *Throws* bad-request when there is no whole backup that an incremental one could build on. */
  create(id: VolumeId, request: BackupRequest, requester: Requester, admit: Admit): Promise<Backup>;
  /** Makes the volume hold what the backup does; it waits for the volume's own creation. *Throws* too-large; bad-request. */
  restore(id: BackupId, volumeId: VolumeId, requester: Requester): Promise<void>;
  /** *Throws* bad-request while others build on it. */
  delete(id: BackupId, requester: Requester, how: { readonly force: boolean }): Promise<void>;
}

/** What the API may set going that takes all of a volume's content elsewhere, or replaces it; as with volumes. */
export interface ContentOperations {
  /** Makes an image of a volume. Returns its row, still without data. */
  upload(id: VolumeId, request: VolumeImageRequest, requester: Requester): Promise<Image>;
  /** Makes a volume hold what its latest snapshot does. *Throws* bad-request when this is not the latest, or smaller. */
  revert(id: VolumeId, snapshotId: SnapshotId, requester: Requester): Promise<void>;
  /** Makes a volume hold what an image does. *Throws* bad-request. */
  reimage(id: VolumeId, request: ReimageRequest, requester: Requester): Promise<void>;
}

/** The headers of encrypted volumes, which their host keeps copies of. *Throws* bad-request for a volume without one. */
export interface HeaderOperations {
  /** Oldest first. */
  list(id: VolumeId): Promise<readonly HeaderBackup[]>;
  /** Puts a kept header back; null: the last. *Throws* disk-in-use (409) while a guest has it; header-backup-missing (404). */
  restore(id: VolumeId, version: number | null, requester: Requester): Promise<void>;
}

/** All of block storage. */
export type BlockStorageOperations = {
  readonly volumes: VolumeOperations;
  readonly snapshots: SnapshotOperations;
  readonly migrations: MigrationOperations;
  readonly transfers: TransferOperations;
  readonly backups: BackupOperations;
  readonly contents: ContentOperations;
  readonly headers: HeaderOperations;
};
