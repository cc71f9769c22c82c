import { NightlatchError } from '#core/errors.ts';
import { type BackupId, type DiskId, type ImageId, newId, type SnapshotId, type VolumeId } from '#core/ids.ts';
import { GIB } from '#core/sizes.ts';
import { statusInWords } from '#core/volume.ts';
import { lockBackup } from '#db/backups.ts';
import type { Queryable } from '#db/database.ts';
import { type DiskRow, insertDisks, type NewDisk } from '#db/disks.ts';
import { lockSnapshot, type Snapshot } from '#db/snapshots.ts';
import type { PendingOperation } from '#db/tables/columns.ts';
import { insertVolume, lockVolume, type Volume } from '#db/volumes.ts';
import { pendingOn } from '#operations/engine.ts';
import type { Requester } from '#operations/server-operations.ts';
import type { VolumeInput } from '#operations/volume-context.ts';
import type { Admit, VolumeRequest } from '#operations/volume-operations.ts';

/** A volume whose rows are written, and the operation that they name. */
export type PlannedVolume = { readonly volume: Volume; readonly operation: PendingOperation };

/**
 * Writes the rows of a new volume and of its disk, if `admit` lets it pass. Its creation begins when the engine is told, after
 * the transaction.
 * @throws volume-state when its source cannot be read now; what `admit` throws.
 */
export async function planVolume(
  tx: Queryable,
  request: VolumeRequest,
  requester: Requester,
  admit: Admit,
): Promise<PlannedVolume> {
  const id = newId<VolumeId>();
  const operation = pendingOn<VolumeInput>('create-volume', { volumeId: id, requestId: requester.requestId });
  await lockSource(tx, request);
  await admit(tx);
  const beginning = { status: 'creating', operation: JSON.stringify(operation), updated_at: new Date() } as const;
  const volume = await insertVolume(tx, { ...volumeColumns(request, requester), id, ...beginning });
  await insertDisks(tx, [newDisk(id, request, requester)]);
  return { volume, operation };
}

/** @throws volume-state. */
export function checkCanBeRead(volume: Volume, evenInUse: boolean): void {
  const allowed = evenInUse ? ['available', 'in-use'] : ['available'];
  if (allowed.includes(volume.status) && volume.operation === null) return;
  const details = { volume: volume.id, action: 'copy', allowed: allowed.join(' or '), status: volume.status };
  throw new NightlatchError('volume-state', details);
}

function volumeColumns(request: VolumeRequest, { projectId, userId }: Requester) {
  return {
    project_id: projectId,
    user_id: userId,
    name: request.name,
    description: request.description,
    size_gib: request.sizeGib,
    volume_type_id: request.volumeTypeId,
    encryption: request.encryption === null ? null : JSON.stringify(request.encryption),
    availability_zone: request.availabilityZone,
    metadata: JSON.stringify(request.metadata),
    image_metadata: request.imageMetadata === null ? null : JSON.stringify(request.imageMetadata),
    bootable: request.bootable,
    source: JSON.stringify(request.source),
    host: null,
    backend: null,
  };
}

/** The row of a volume's disk; where it goes is still to be chosen. */
function newDisk(
  id: VolumeId,
  { sizeGib, format, source }: VolumeRequest,
  { projectId }: Requester,
): Parameters<typeof insertDisks>[1][number] {
  return {
    id: newId<DiskId>(),
    owner_id: id,
    project_id: projectId,
    role: 'volume',
    ordinal: 0,
    size_bytes: sizeGib * GIB,
    storage: null,
    encrypted: format !== null,
    encryption: format,
    image_id: source.kind === 'image' ? (source.id as ImageId) : null,
    host: null,
    backend: null,
    state: 'absent',
    secret_id: null,
  };
}

/**
 * Looked at again where nobody can change it: until the new volume's row is there, its source might go. As every lock on a
 * row it is taken before that on the quotas, or two would wait for each other.
 * @throws volume-state, snapshot-state, backup-state when it cannot be read now.
 */
export async function lockSource(tx: Queryable, { source }: VolumeRequest): Promise<void> {
  if (source.kind === 'volume') checkCanBeRead(await lockVolume(tx, source.id as VolumeId), true);
  if (source.kind === 'snapshot') checkIsFree(await lockSnapshot(tx, source.id as SnapshotId), 'create a volume from');
  if (source.kind === 'backup') {
    await lockBackup(tx, source.id as BackupId, { action: 'create a volume from', from: ['available'] });
  }
}

/** @throws snapshot-state when a snapshot is not available or something is done to it. `action`: what it is wanted for. */
export function checkIsFree({ id, status, operation }: Snapshot, action: string): void {
  if (status === 'available' && operation === null) return;
  const details = { snapshot: id, action, allowed: 'available', status: statusInWords(status, ['available']) };
  throw new NightlatchError('snapshot-state', details);
}

/** The row of a disk that is to hold what another holds, in the same place. */
export function diskBeside(
  { created_at: _, ...like }: DiskRow,
  own: Pick<NewDisk, 'owner_id' | 'role' | 'project_id'>,
): NewDisk {
  const fresh = {
    id: newId<DiskId>(),
    generation: 0,
    state: 'absent',
    secret_id: null,
    other_secret_id: null,
  } as const;
  return { ...like, ...own, ...fresh };
}
