import type { Disk, DiskOwnerId, DiskStanding } from '#core/disk.ts';
import type {
  AttachmentId,
  BackendName,
  BackupId,
  ImageId,
  ProjectId,
  ServerId,
  SnapshotId,
  UserId,
  VolumeId,
  VolumeTypeId,
} from '#core/ids.ts';
import type { VolumeStatus } from '#core/volume.ts';
import { asDisk, disksOf } from '#db/disks.ts';
import { attachmentOf } from '#db/volume-attachments.ts';
import { findVolume, releaseVolume, type Volume, type VolumeChange } from '#db/volumes.ts';
import type { HostAgent } from '#host/host-agent.ts';
import type { OperationContext } from '#operations/context.ts';

/** What every operation on a volume is given. It is recorded. */
export type VolumeInput = {
  readonly volumeId: VolumeId;
  readonly operationId: string;
  readonly requestId: string;
  /** Of an extend: what it is to have. */
  readonly sizeGib?: number;
  /** Of an attach or a detach. */
  readonly attachment?: { readonly id: AttachmentId; readonly serverId: ServerId };
  /** Of an upload: the image that is made; of a reimage: the one it is to hold. */
  readonly imageId?: ImageId;
  /** Of a reimage: what the volume is to say of that image. */
  readonly imageMetadata?: Readonly<Record<string, string>>;
  /** Of a revert: the snapshot whose content it is to have. */
  readonly snapshotId?: SnapshotId;
  /** Of a retype: what it is to be. */
  readonly retype?: { readonly typeId: VolumeTypeId };
  /** Of the restoring of a header: which one; the last, where it is absent. */
  readonly headerVersion?: number;
  /** Of a migration: where it is to lie. */
  readonly destination?: BackendName;
  /** Of the acceptance of a transfer: whose it becomes. */
  readonly recipient?: { readonly projectId: ProjectId; readonly userId: UserId };
};

/** What every operation on a snapshot is given. It is recorded. */
export type SnapshotInput = {
  readonly snapshotId: SnapshotId;
  readonly volumeId: VolumeId;
  readonly operationId: string;
  readonly requestId: string;
};

/** What every operation on a backup is given. `volumeId`: what it is of, or is restored to. It is recorded. */
export type BackupInput = {
  readonly backupId: BackupId;
  readonly volumeId: VolumeId;
  readonly operationId: string;
  readonly requestId: string;
};

/** A disk of a volume or a snapshot that has its place, with the agent of its host. */
export type PlacedDisk = { readonly disk: Disk; readonly agent: HostAgent };

/** The one that is `live`, unless another is asked for. Null: it has none, or one that no host was found for. */
export async function placedDiskOf(
  context: OperationContext,
  owner: DiskOwnerId,
  which: DiskStanding = 'live',
): Promise<PlacedDisk | null> {
  const row = (await disksOf(context.db, owner)).find(({ standing }) => standing === which);
  if (!row || row.storage === null || row.host === null) return null;
  return { disk: asDisk(row), agent: context.agent(row.host) };
}

/** @throws when it has none: a bug. */
export async function needPlacedDisk(
  context: OperationContext,
  owner: DiskOwnerId,
  which: DiskStanding = 'live',
): Promise<PlacedDisk> {
  const placed = await placedDiskOf(context, owner, which);
  if (!placed) throw new Error(`${owner} has no ${which} disk on any host`);
  return placed;
}

export async function needVolume(context: OperationContext, id: VolumeId): Promise<Volume> {
  const volume = await findVolume(context.db, id);
  if (!volume) throw new Error(`volume ${id} has no row`);
  return volume;
}

/** The volume that an operation has to give back. */
type OnVolume = Pick<VolumeInput, 'volumeId' | 'operationId'>;

/** Gives a volume back: the operation has ended. */
export async function finishVolume(context: OperationContext, input: OnVolume, change: VolumeChange): Promise<void> {
  await releaseVolume(context.db, input.volumeId, input.operationId, change);
}

/** Gives a volume back in the status it had before the operation, or has kept during it. */
export async function finishAsBefore(
  context: OperationContext,
  input: OnVolume,
  change: VolumeChange = {},
): Promise<void> {
  const { previous_status, status } = await needVolume(context, input.volumeId);
  const before = previous_status ?? status;
  // Its server may have gone meanwhile.
  const isFree = before === 'in-use' && (await attachmentOf(context.db, input.volumeId)) === null;
  await finishVolume(context, input, { ...change, status: isFree ? 'available' : before, previous_status: null });
}

/** Gives a volume back in a status that tells its user that the operation failed. */
export async function failVolume(context: OperationContext, input: OnVolume, status: VolumeStatus): Promise<void> {
  await finishVolume(context, input, { status, previous_status: null });
}
