import type { FastifyRequest } from 'fastify';
import type { RequestContext } from '#api/auth.ts';
import { toBoolean } from '#api/block-storage/fields.ts';
import { has } from '#api/block-storage/microversions.ts';
import type { BlockStorageServices } from '#api/block-storage/services.ts';
import { getBackup, getSnapshot, getVolume } from '#api/block-storage/volume-lookup.ts';
import type { CreateVolume } from '#api/block-storage/volume-schemas.ts';
import { badRequest, NightlatchError, notFound, shorten } from '#core/errors.ts';
import { type ImageId, isUuid } from '#core/ids.ts';
import type { Image } from '#core/image.ts';
import { imageEncryption } from '#core/image-encryption.ts';
import { GIB } from '#core/sizes.ts';
import type { VolumeSource } from '#core/volume.ts';
import { volumeFormat } from '#core/volume-encryption.ts';
import { checkQuota } from '#db/volume-quotas.ts';
import { encryptionOf, findVolumeTypeNamed, holdVolumeType, type VolumeType } from '#db/volume-types.ts';
import type { Volume } from '#db/volumes.ts';
import type { Admit, VolumeRequest } from '#operations/volume-operations.ts';

export const AVAILABILITY_ZONE = 'nova';
const MAX_SIZE_GIB = 2 ** 31 - 1;

/** What a volume is made from, as far as a request depends on it. */
type Origin = {
  readonly source: VolumeSource;
  /** It cannot be smaller. */
  readonly sizeGib: number | null;
  readonly typeId: Volume['volume_type_id'];
  readonly imageMetadata: Readonly<Record<string, string>> | null;
  readonly bootable: boolean;
  readonly mustEncrypt: boolean;
};

/**
 * Judges a request for a volume, and sets its creation going. On return its row is durable.
 * @throws bad-request, not-found, too-large, each before anything was made: no key is left behind.
 */
export async function createVolume(
  request: FastifyRequest,
  asked: CreateVolume,
  context: RequestContext,
  services: VolumeJudges & Pick<BlockStorageServices, 'volumes'>,
): Promise<Volume> {
  if (asked.backup_id != null && !has(request, 'create-from-backup')) {
    throw badRequest("Additional properties are not allowed ('backup_id' was unexpected)");
  }
  const { wanted, admit } = await judgeVolume(asked, context, services);
  request.log.debug({ size: wanted.sizeGib }, 'creating a volume');
  return await services.volumes.create(wanted, context, admit);
}

/** What a judgement depends on. */
export type VolumeJudges = Pick<BlockStorageServices, 'db' | 'images' | 'defaultVolumeType'>;

/**
 * Judges a request for a volume. `admit` has to be called in the transaction that writes the volume's row.
 * @throws as `createVolume`.
 */
export async function judgeVolume(
  asked: CreateVolume,
  context: RequestContext,
  services: VolumeJudges,
): Promise<{ readonly wanted: VolumeRequest; readonly admit: Admit }> {
  if (asked.multiattach != null && toBoolean(asked.multiattach)) {
    throw badRequest('Volumes that are attached to several servers at once are not served.');
  }
  const origin = await originOf(asked, context, services);
  const sizeGib = sizeFrom(asked.size, origin);
  const type = await typeOf(asked, origin, context, services);
  const encryption = encryptionOf(type);
  const format = encryption === null ? null : volumeFormat(encryption);
  if (origin.mustEncrypt && format === null) {
    throw badRequest(
      'The image is encrypted: its data would lie on the volume in clear. Choose an encrypted volume type.',
    );
  }
  const wanted: VolumeRequest = {
    name: asked.name ?? asked.display_name ?? null,
    description: asked.description ?? asked.display_description ?? null,
    sizeGib,
    volumeTypeId: type.id,
    encryption,
    format,
    availabilityZone: zoneFrom(asked.availability_zone),
    metadata: asked.metadata ?? {},
    imageMetadata: origin.imageMetadata,
    bootable: origin.bootable,
    source: origin.source,
  };
  const more = { volumes: 1, gigabytes: sizeGib };
  const admit: Admit = async (tx) => {
    // Held, so that its encryption is what was read, until the volume says that the type is in use.
    const held = await holdVolumeType(tx, type.id);
    if (!held || held.encryption?.id !== type.encryption?.id) throw notFound('Volume type', type.name);
    await checkQuota(tx, context.projectId, { kind: 'volume', more, volumeType: type.name, volumeGib: sizeGib });
  };
  return { wanted, admit };
}

const BLANK: Origin = {
  source: { kind: 'blank' },
  sizeGib: null,
  typeId: null,
  imageMetadata: null,
  bootable: false,
  mustEncrypt: false,
};

async function originOf(asked: CreateVolume, context: RequestContext, services: VolumeJudges): Promise<Origin> {
  const imageRef = asked.imageRef ?? asked.image_id ?? null;
  const named = [asked.snapshot_id, asked.source_volid, imageRef, asked.backup_id].filter((id) => id != null);
  if (named.length > 1) {
    throw badRequest(
      'Invalid input received: only one of snapshot_id, source_volid, imageRef and backup_id may be given.',
    );
  }
  if (asked.snapshot_id != null) return await fromSnapshot(asked.snapshot_id, context, services);
  if (asked.source_volid != null) return await fromVolume(asked.source_volid, context, services);
  if (imageRef !== null && imageRef !== '') return await fromImage(imageRef, asked.size, context, services);
  if (asked.backup_id != null) return await fromBackup(asked.backup_id, context, services);
  return BLANK;
}

async function fromSnapshot(id: string, context: RequestContext, { db }: VolumeJudges): Promise<Origin> {
  const snapshot = await getSnapshot(db, id, context);
  if (snapshot.status !== 'available') {
    const details = { snapshot: id, action: 'create a volume from', allowed: 'available', status: snapshot.status };
    throw new NightlatchError('snapshot-state', details);
  }
  const volume = await db
    .selectFrom('volumes')
    .selectAll()
    .where('id', '=', snapshot.volume_id)
    .executeTakeFirstOrThrow();
  return {
    ...likeVolume(volume),
    source: { kind: 'snapshot', id: snapshot.id },
    sizeGib: snapshot.size_gib,
  };
}

async function fromVolume(id: string, context: RequestContext, { db }: VolumeJudges): Promise<Origin> {
  const volume = await getVolume(db, id, context);
  return { ...likeVolume(volume), source: { kind: 'volume', id: volume.id }, sizeGib: volume.size_gib };
}

async function fromBackup(id: string, context: RequestContext, { db }: VolumeJudges): Promise<Origin> {
  const backup = await getBackup(db, id, context);
  if (backup.status !== 'available') {
    const details = { backup: id, action: 'create a volume from', allowed: 'available', status: backup.status };
    throw new NightlatchError('backup-state', details);
  }
  const volume = await db.selectFrom('volumes').selectAll().where('id', '=', backup.volume_id).executeTakeFirst();
  return {
    typeId: backup.volume_type_id,
    imageMetadata: volume?.image_metadata ?? null,
    bootable: volume?.bootable ?? false,
    mustEncrypt: backup.layout?.encryption != null,
    source: { kind: 'backup', id: backup.id },
    sizeGib: backup.size_gib,
  };
}

function likeVolume(volume: Volume): Omit<Origin, 'source' | 'sizeGib'> {
  const { volume_type_id: typeId, image_metadata: imageMetadata, bootable } = volume;
  return { typeId, imageMetadata, bootable, mustEncrypt: false };
}

/** By its id, or by its name, as in Cinder. @throws conflict (409) when several have the name. */
async function imageFor(ref: string, context: RequestContext, images: VolumeJudges['images']): Promise<Image | null> {
  if (isUuid(ref)) return await images.find(ref as ImageId, context);
  const named = await images.findNamed(ref, context);
  if (named.length <= 1) return named[0] ?? null;
  throw new NightlatchError('conflict', {
    reason: `Multiple image matches found for '${shorten(ref)}', use an ID to be more specific.`,
  });
}

/** What a volume of this size (null: any) made from an image is like. @throws bad-request; encrypted-image-refused. */
export async function fromImage(
  id: string,
  size: CreateVolume['size'],
  context: RequestContext,
  { images }: Pick<VolumeJudges, 'images'>,
): Promise<Origin> {
  const image = await imageFor(id, context, images);
  if (!image) throw badRequest(`Invalid image identifier or unable to access requested image.`);
  if (image.status !== 'active' || image.virtualSizeBytes === null) {
    throw badRequest(`Invalid input received: Image ${image.id} is not active.`);
  }
  if (imageEncryption(image.properties) && image.projectId !== context.projectId) {
    throw new NightlatchError('encrypted-image-refused', {
      image: image.id,
      reason: 'it is encrypted, and its key belongs to another project',
    });
  }
  const needed = Math.max(Math.ceil(image.virtualSizeBytes / GIB), image.minDiskGib);
  if (size != null && Number(size) < needed) {
    throw badRequest(
      `Invalid input received: Size of specified image ${needed}GB is larger than volume size ${shorten(String(size), 16)}GB.`,
    );
  }
  return {
    source: { kind: 'image', id: image.id },
    sizeGib: null,
    typeId: null,
    imageMetadata: {
      ...image.properties,
      image_id: image.id,
      image_name: image.name ?? '',
      checksum: image.md5 ?? '',
      container_format: image.containerFormat ?? '',
      disk_format: image.diskFormat ?? '',
      min_disk: String(image.minDiskGib),
      min_ram: String(image.minRamMib),
      size: String(image.sizeBytes ?? 0),
    },
    bootable: true,
    mustEncrypt: imageEncryption(image.properties) !== null,
  };
}

/** As large as what it is made from, unless asked otherwise. @throws bad-request with Cinder's words. */
function sizeFrom(asked: CreateVolume['size'], { source, sizeGib: least }: Origin): number {
  const size = asked ?? least;
  if (size == null)
    throw badRequest(`Invalid input received: Volume size 'None' must be an integer and greater than 0`);
  const number = typeof size === 'string' && !/^\s*\d{1,12}\s*$/.test(size) ? Number.NaN : Number(size);
  if (!Number.isSafeInteger(number) || number <= 0 || number > MAX_SIZE_GIB) {
    throw badRequest(
      `Invalid input received: Volume size '${shorten(String(size), 32)}' must be an integer and greater than 0`,
    );
  }
  if (least !== null && number < least) {
    const what = source.kind === 'snapshot' ? 'snapshot' : 'original volume';
    throw badRequest(
      `Invalid input received: Volume size '${number}'GB cannot be smaller than the ${what} size ${least}GB. They must be >= ${what} size.`,
    );
  }
  return number;
}

/** The type asked for; else that of what it is made from; else what the image names; else the default. */
async function typeOf(
  { volume_type: asked }: CreateVolume,
  { typeId, imageMetadata, source }: Origin,
  { projectId, isAdmin }: RequestContext,
  { db, defaultVolumeType }: VolumeJudges,
): Promise<VolumeType> {
  const byImage = source.kind === 'image' ? imageMetadata?.cinder_img_volume_type : undefined;
  const name = asked || (typeId ?? byImage ?? defaultVolumeType);
  const type = await findVolumeTypeNamed(db, name, isAdmin ? null : projectId);
  if (!type) throw notFound('Volume type', name);
  return type;
}

function zoneFrom(asked: string | null | undefined): string {
  if (asked == null || asked === AVAILABILITY_ZONE) return AVAILABILITY_ZONE;
  throw badRequest(`Invalid input received: Availability zone '${shorten(asked)}' is invalid.`);
}
