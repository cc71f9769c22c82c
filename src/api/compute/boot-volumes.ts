import type { RequestContext } from '#api/auth.ts';
import { judgeVolume } from '#api/block-storage/create-volume.ts';
import { type Device, invalid } from '#api/compute/block-devices.ts';
import type { ComputeServices } from '#api/compute/services.ts';
import { badRequest, NightlatchError } from '#core/errors.ts';
import type { SnapshotId, VolumeId } from '#core/ids.ts';
import { GIB } from '#core/sizes.ts';
import { findSnapshot } from '#db/snapshots.ts';
import { findVolume, type Volume } from '#db/volumes.ts';
import type { ServerVolume } from '#operations/server-operations.ts';
import type { Admit } from '#operations/volume-operations.ts';

/** A volume that a server is to have, and what is known of it before it is made. */
export type JudgedVolume = {
  readonly volume: ServerVolume;
  readonly sizeGib: number;
  readonly encrypted: boolean;
  readonly bootable: boolean;
  /** What is said of the image it was made from; null: it was made from none. */
  readonly imageMetadata: Readonly<Record<string, string>> | null;
};

/**
 * Judges a device that is to be a volume. @throws bad-request or block-device (400) with Nova's texts; volume-state (400).
 */
export async function judgeDevice(
  device: Device,
  context: RequestContext,
  services: ComputeServices,
): Promise<JudgedVolume> {
  const judged = await (device.source === 'volume' ? thatIsThere : toBeMade)(device, context, services);
  if (device.bootIndex === 0) checkBootable(device, judged);
  return judged;
}

async function thatIsThere(device: Device, context: RequestContext, { db }: ComputeServices): Promise<JudgedVolume> {
  const volume = await findVolume(db, device.id as VolumeId);
  if (!volume || !isOwn(volume, context)) throw invalid(`failed to get volume ${device.id}.`);
  if (volume.status !== 'available' || volume.operation !== null) {
    throw badRequest(
      `Invalid volume: volume '${volume.id}' status must be 'available'. Currently in '${volume.status}'`,
    );
  }
  return {
    volume: { ...placeOf(device), from: { kind: 'volume', id: volume.id } },
    sizeGib: volume.size_gib,
    encrypted: volume.encryption !== null,
    bootable: volume.bootable,
    imageMetadata: volume.image_metadata,
  };
}

/** A key is a project's own: whoever may see more has only volumes of the project they act for. */
function isOwn({ deleted_at, project_id }: Pick<Volume, 'deleted_at' | 'project_id'>, { projectId }: RequestContext) {
  return deleted_at === null && project_id === projectId;
}

async function toBeMade(device: Device, context: RequestContext, services: ComputeServices): Promise<JudgedVolume> {
  await checkSource(device, context, services);
  const { source, id, sizeGib, volumeType } = device;
  const asked = {
    name: '',
    description: '',
    ...(sizeGib === null ? {} : { size: sizeGib }),
    ...(volumeType === null ? {} : { volume_type: volumeType }),
    ...(source === 'image' ? { imageRef: id } : source === 'snapshot' ? { snapshot_id: id } : {}),
  };
  const { wanted, admit } = await judgeVolume(asked, context, services).catch((error: unknown) => {
    // What is not there is a mistake in the request here, not an address that leads nowhere.
    throw error instanceof NightlatchError && error.status === 404 ? badRequest(error.message) : error;
  });
  return {
    volume: { ...placeOf(device), from: { kind: 'new', request: wanted, admit: withinQuota(admit) } },
    sizeGib: wanted.sizeGib,
    encrypted: wanted.encryption !== null,
    bootable: wanted.bootable,
    imageMetadata: wanted.imageMetadata,
  };
}

function placeOf({ bootIndex, name, deleteOnTermination }: Device) {
  return { bootIndex, device: name, deleteOnTermination };
}

async function checkSource({ source, id }: Device, context: RequestContext, { db, images }: ComputeServices) {
  if (source === 'snapshot') {
    const snapshot = await findSnapshot(db, id as SnapshotId);
    if (!snapshot || !isOwn(snapshot, context)) throw invalid(`failed to get snapshot ${id}.`);
  }
  if (source === 'image' && !(await images.find(id as never, context))) throw invalid(`failed to get image ${id}.`);
}

function checkBootable({ id }: Device, { bootable, imageMetadata, sizeGib }: JudgedVolume): void {
  if (!bootable) throw badRequest(id === '' ? 'Block Device is not bootable.' : `Block Device ${id} is not bootable.`);
  const minDiskGib = Number(imageMetadata?.min_disk ?? 0);
  if (sizeGib >= minDiskGib) return;
  throw badRequest(
    `Volume is smaller than the minimum size specified in image metadata. Volume size is ${sizeGib * GIB} bytes, minimum size is ${minDiskGib * GIB} bytes.`,
  );
}

/** Nova has no 413: what a quota forbids it refuses. */
export function withinQuota(admit: Admit): Admit {
  return async (tx) => {
    try {
      await admit(tx);
    } catch (error) {
      if (!(error instanceof NightlatchError) || error.status !== 413) throw error;
      throw new NightlatchError('refused', { reason: error.message }, { cause: error });
    }
  };
}
