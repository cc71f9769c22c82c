import type { Readable } from 'node:stream';
import type { EncryptionFormat } from '#core/encryption-intent.ts';
import { NightlatchError } from '#core/errors.ts';
import type {
  BackendName,
  BackupId,
  DiskId,
  HostName,
  ImageId,
  ProjectId,
  SecretId,
  ServerId,
  SnapshotId,
  VolumeId,
} from '#core/ids.ts';

/**
 * What a server uses a disk for, in the order a guest sees them. Saved memory and the config drive are disks like any
 * other. `rescue`: a rescued server starts from it. `snapshot`: no guest sees it, it becomes the data of an image.
 */
export const serverDiskRoles = ['rescue', 'root', 'ephemeral', 'swap', 'config-drive', 'memory', 'snapshot'] as const;
/**
 * Disks with a life of their own: a volume, what a volume was at one moment, and what is on its way into a backup or an
 * image.
 */
export const volumeDiskRoles = ['volume', 'volume-snapshot', 'backup', 'volume-image'] as const;
export const diskRoles = [...serverDiskRoles, ...volumeDiskRoles] as const;
export type DiskRole = (typeof diskRoles)[number];

/** What a disk belongs to; its role says which of them. */
export type DiskOwnerId = ServerId | VolumeId | SnapshotId | BackupId | ImageId;

/** The server that a disk is part of; null: it is no server's. */
export function serverOfDisk({ role, ownerId }: Pick<DiskSpec, 'role' | 'ownerId'>): ServerId | null {
  return (volumeDiskRoles as readonly DiskRole[]).includes(role) ? null : (ownerId as ServerId);
}

/**
 * How far a disk has come, durable. `absent`: nothing stored. `key-stored`: its secret is durable and the medium may be
 * formatted, the only state in which it may. `formatted`: in use. `rekeying`: its secret or the next one opens it, both are
 * stored. `destroyed`: header overwritten, medium gone.
 */
export const diskStates = ['absent', 'key-stored', 'formatted', 'rekeying', 'destroyed'] as const;
export type DiskState = (typeof diskStates)[number];

/**
 * Which of a server's disks are its own while some are being replaced, durable. `live`: what the guest has. `coming`: made
 * to replace one. `kept`: was replaced, and can still come back.
 */
export const diskStandings = ['live', 'coming', 'kept'] as const;
export type DiskStanding = (typeof diskStandings)[number];

/** How a disk lies in a file. */
export const fileFormats = ['raw', 'qcow2'] as const;
export type FileFormat = (typeof fileFormats)[number];
/** How a disk lies on its medium. `lvm`: it is a logical volume. */
export const storageFormats = [...fileFormats, 'lvm', 'rbd'] as const;
export type StorageFormat = (typeof storageFormats)[number];

/**
 * Where the memory of a server is saved whose disks lie so. It is written once from end to end: nothing would be gained by
 * a layer between.
 */
export function memoryStorage(disks: StorageFormat): StorageFormat {
  return disks === 'qcow2' ? 'raw' : disks;
}

/** What a new disk holds before the guest first sees it. */
export type DiskContent =
  | { readonly kind: 'blank' }
  | { readonly kind: 'image'; readonly imageId: ImageId }
  /** `bytesPerSecond`: at most so fast, see `HostAgent.paceCopy`; absent or 0: as fast as it goes. */
  | { readonly kind: 'disk'; readonly from: DiskSpec; readonly bytesPerSecond?: number }
  /** As `disk`, by copying the medium of a locked disk of equal storage and encryption, whose header is then given another key. */
  | { readonly kind: 'clone'; readonly from: DiskSpec }
  | MediumContent
  | { readonly kind: 'filesystem'; readonly label: string }
  | { readonly kind: 'swap' }
  | { readonly kind: 'config-drive'; readonly files: readonly ConfigDriveFile[] };

/**
 * The bytes that `openMedium` gave of a disk of equal encryption. They lay as `format` says, had `sizeBytes` usable bytes, and
 * open with the key that `keyId` names among the keys.
 */
export type MediumContent = {
  readonly kind: 'medium';
  readonly keyId: DiskId;
  readonly sizeBytes: number;
  readonly format: FileFormat;
  open(): Promise<Readable>;
};

export type ConfigDriveFile = { readonly path: string; readonly base64: string };

/** One disk as a host needs to know it. Sizes are what the guest can use; headers come on top. */
export type DiskSpec = {
  readonly id: DiskId;
  readonly ownerId: DiskOwnerId;
  /** The volume backend that keeps it; null: it lies where its host keeps servers' disks. */
  readonly backend: BackendName | null;
  readonly role: DiskRole;
  /** Position among its owner's disks of the same role, from 0. */
  readonly ordinal: number;
  /** Tells a disk from the one it replaces, from 0. */
  readonly generation: number;
  readonly sizeBytes: number;
  readonly storage: StorageFormat;
  /** Null: the disk is not encrypted. */
  readonly encryption: EncryptionFormat | null;
  /** The name of the secret that opens it; a copy of its header is kept under that name. Null: none is stored. */
  readonly secretId: SecretId | null;
};

/** A copy of a disk's encryption header that is kept beside the disk, as its host finds it. */
export type HeaderBackup = {
  /** From 1; no two of a disk ever have the same. */
  readonly version: number;
  /** The secret that opens it, and with which it is destroyed. */
  readonly secretId: SecretId;
  readonly storedAt: string;
  /** Whether it is what the disk has now. */
  readonly isCurrent: boolean;
};

/** The backup that is meant: that of a version; null: the last. *Throws* header-backup-missing. */
export function chosenHeaderBackup<Backup extends Pick<HeaderBackup, 'version'>>(
  disk: DiskId,
  kept: readonly Backup[],
  version: number | null,
): Backup {
  const found = version === null ? kept.at(-1) : kept.find((each) => each.version === version);
  if (found) return found;
  const reason = version === null ? 'no header backup of it' : `no header backup of version ${version}`;
  throw new NightlatchError('header-backup-missing', { disk, reason });
}

/** One disk as the control plane knows it. */
export type Disk = DiskSpec & {
  readonly projectId: ProjectId;
  readonly host: HostName | null;
  readonly state: DiskState;
  readonly standing: DiskStanding;
  /** While it is `rekeying`: the secret that is to open it. After that: the one that did, until it is destroyed. */
  readonly otherSecretId: SecretId | null;
  readonly imageId: ImageId | null;
};
