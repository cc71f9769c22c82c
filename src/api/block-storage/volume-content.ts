import { fromImage } from '#api/block-storage/create-volume.ts';
import { toBoolean } from '#api/block-storage/fields.ts';
import { has, requireFeature } from '#api/block-storage/microversions.ts';
import { allowed } from '#api/block-storage/policy.ts';
import type { VolumeActionCall } from '#api/block-storage/volume-actions.ts';
import { presentTime } from '#api/times.ts';
import { type FileFormat, fileFormats } from '#core/disk.ts';
import { badRequest, NightlatchError } from '#core/errors.ts';
import type { ImageId, SnapshotId } from '#core/ids.ts';
import type { Image } from '#core/image.ts';
import type { VolumeSource } from '#core/volume.ts';
import { findVolumeType } from '#db/volume-types.ts';
import type { Volume } from '#db/volumes.ts';
import type { VolumeImageRequest } from '#operations/volume-operations.ts';

/** Actions that take all of a volume's content elsewhere, or replace it. */

/** See "Upload volume to image". */
export async function uploadImage(call: VolumeActionCall): Promise<object> {
  const { volume, context, services } = call;
  const image = await services.contents.upload(volume.id, imageRequestFrom(call), context);
  const type = volume.volume_type_id === null ? null : await findVolumeType(services.db, volume.volume_type_id, null);
  return {
    'os-volume_upload_image': {
      ...presentUpload(volume, image),
      volume_type: type && { id: type.id, name: type.name, description: type.description, is_public: type.is_public },
      ...(has(call.request, 'upload-visibility') ? { visibility: image.visibility, protected: image.protected } : {}),
    },
  };
}

function presentUpload(volume: Volume, image: Image): object {
  return {
    id: volume.id,
    updated_at: presentTime(volume.updated_at),
    status: 'uploading',
    display_description: volume.description,
    size: volume.size_gib,
    image_id: image.id,
    image_name: image.name,
    container_format: image.containerFormat,
    disk_format: image.diskFormat,
  };
}

/** @throws bad-request; forbidden for a public image; refused (403) when another than its owner wants it in clear. */
function imageRequestFrom({ request, body, volume, context, services }: VolumeActionCall): VolumeImageRequest {
  const asked = body['os-volume_upload_image'];
  if (!asked) throw badRequest("'os-volume_upload_image' is a required property");
  const { visibility = 'private', protected: isProtected = false } = asked;
  if (!has(request, 'upload-visibility') && (asked.visibility !== undefined || asked.protected !== undefined)) {
    throw badRequest('Additional properties are not allowed: visibility and protected came with microversion 3.1.');
  }
  if (visibility === 'public') allowed(request, 'volume_extension:volume_actions:upload_public');
  const encryption = asked.encryption?.key ?? 'new';
  if (encryption === 'none' && context.projectId !== volume.project_id) {
    throw new NightlatchError('refused', {
      reason: `Only its own project can have an image of volume ${volume.id} in clear. Leave out encryption, or ask for the key 'new'.`,
    });
  }
  return {
    name: asked.image_name,
    ...{ visibility, encryption },
    diskFormat: formatFrom(asked),
    isProtected: toBoolean(isProtected),
    force: services.canForceUpload && toBoolean(asked.force ?? false),
  };
}

/** Raw unless said otherwise, as in Cinder. */
function formatFrom(asked: { readonly disk_format?: string; readonly container_format?: string }): FileFormat {
  const { disk_format = 'raw', container_format = 'bare' } = asked;
  const format = fileFormats.find((each) => each === disk_format);
  if (format !== undefined && container_format === 'bare') return format;
  throw badRequest(
    `Invalid input received: Images of volumes are raw or qcow2 in a bare container; disk_format ${disk_format} in container_format ${container_format.slice(0, 64)} is not served.`,
  );
}

/** See "Revert volume to snapshot". What the status does not allow is 409 here, as in Cinder. */
export async function revert({ request, body, context, volume, services }: VolumeActionCall): Promise<null> {
  requireFeature(request, 'revert');
  const snapshotId = body.revert?.snapshot_id as SnapshotId;
  try {
    await services.contents.revert(volume.id, snapshotId, context);
  } catch (error) {
    const isState = error instanceof NightlatchError && /^(volume|snapshot)-state$/.test(error.code);
    throw isState ? new NightlatchError('conflict', { reason: error.message }, { cause: error }) : error;
  }
  return null;
}

/** See "Reimage a volume". */
export async function reimage({ request, body, context, volume, services }: VolumeActionCall): Promise<null> {
  requireFeature(request, 'reimage');
  const { image_id: id = '', reimage_reserved: reserved = false } = body['os-reimage'] ?? {};
  const evenReserved = toBoolean(reserved);
  if (evenReserved) allowed(request, 'volume:reimage_reserved');
  const { source, imageMetadata, mustEncrypt } = await fromImage(id, volume.size_gib, context, services);
  await services.contents.reimage(
    volume.id,
    { imageId: imageIdOf(source), imageMetadata: imageMetadata ?? {}, mustEncrypt, evenReserved },
    context,
  );
  return null;
}

function imageIdOf(source: VolumeSource): ImageId {
  if (source.kind !== 'image') throw new Error('what is made from an image has another source');
  return source.id as ImageId;
}
