import type { FastifyRequest } from 'fastify';
import { Value } from 'typebox/value';
import { fromLegacy } from '#api/compute/legacy-block-devices.ts';
import { has } from '#api/compute/microversions.ts';
import { type BlockDevice, BlockDevices, type CreateServer } from '#api/compute/server-schemas.ts';
import { toBoolean } from '#api/fields.ts';
import { badRequest, NightlatchError, shorten } from '#core/errors.ts';
import { isUuid } from '#core/ids.ts';
import type { Image } from '#core/image.ts';
import type { ServerFlavor } from '#db/tables/servers.ts';

/** A disk that a server is asked to have, as one entry of a block device mapping says it. */
export type Device = {
  readonly source: 'image' | 'volume' | 'snapshot' | 'blank';
  readonly destination: 'local' | 'volume';
  /** Of its image, volume or snapshot; empty: it is blank. */
  readonly id: string;
  /** The place among the devices to boot from; null: it is none. */
  readonly bootIndex: number | null;
  /** Null: as large as its source. */
  readonly sizeGib: number | null;
  readonly volumeType: string | null;
  readonly isSwap: boolean;
  readonly name: string | null;
  readonly deleteOnTermination: boolean;
};

type Asked = CreateServer['server'];

/**
 * The devices that a request names, of which exactly one is the first to boot from; without any, the image is. See Nova's
 * `BlockDeviceDict.from_api` and `_validate_bdm`.
 * @throws bad-request or block-device (400) with Nova's texts.
 */
export function devicesFrom(request: FastifyRequest, asked: Asked, flavor: ServerFlavor): Device[] {
  const imageId = asked.imageRef ?? '';
  if (imageId !== '' && !isUuid(imageId)) {
    throw badRequest("Invalid input for field/attribute imageRef: it is not a 'uuid'.");
  }
  const { block_device_mapping: legacy = [], block_device_mapping_v2: current = [] } = asked;
  if (legacy.length > 0 && current.length > 0) {
    throw badRequest('Using different block_device_mapping syntaxes is not allowed in the same request.');
  }
  const listed = (legacy.length > 0 ? fromLegacy(legacy, imageId) : current).filter(
    ({ no_device }) => no_device == null,
  );
  if (listed.length === 0) return imageId === '' ? [] : [bootImage(imageId)];
  const devices = listed.map((device) => deviceFrom(request, device));
  for (const device of devices) checkDevice(device, imageId);
  checkBootSequence(devices);
  checkLocal(devices, flavor);
  return devices;
}

/**
 * The devices that an image names in place of data, with those that a request names besides. Null: the image is a disk.
 * @throws as `devicesFrom`.
 */
export function devicesOfImage(
  request: FastifyRequest,
  { id, properties }: Pick<Image, 'id' | 'properties'>,
  besides: readonly Device[],
  flavor: ServerFlavor,
): Device[] | null {
  if (properties.block_device_mapping === undefined) return null;
  const mapping = parseMapping(properties.block_device_mapping);
  if (mapping === null) throw invalid(`the block_device_mapping of image ${id} cannot be read.`);
  const devices = [...mapping.map((device) => deviceFrom(request, device)), ...besides];
  for (const device of devices) checkDevice(device, '');
  checkBootSequence(devices);
  checkLocal(devices, flavor);
  return devices;
}

/** Whoever owns an image can write what they like there. */
function parseMapping(text: string): BlockDevice[] | null {
  try {
    const mapping: unknown = JSON.parse(text);
    return Value.Check(BlockDevices, mapping) ? mapping : null;
  } catch {
    return null;
  }
}

function bootImage(id: string): Device {
  const nothing = { sizeGib: null, volumeType: null, isSwap: false, name: null, deleteOnTermination: true };
  return { ...nothing, source: 'image', destination: 'local', id, bootIndex: 0 };
}

function deviceFrom(request: FastifyRequest, asked: BlockDevice): Device {
  const { source_type: source, boot_index: index, volume_size: size, volume_type: volumeType } = asked;
  if (source === undefined) throw invalid('Invalid source_type field.');
  if (volumeType != null && !has(request, 'device-volume-type')) {
    throw badRequest(`Additional properties are not allowed ('volume_type' was unexpected).`);
  }
  const bootIndex = index == null || Number(index) < 0 ? null : Number(index);
  return {
    source,
    destination: asked.destination_type ?? (source === 'volume' || source === 'snapshot' ? 'volume' : 'local'),
    id: asked.uuid ?? asked[`${source === 'blank' ? 'image' : source}_id`] ?? '',
    bootIndex,
    sizeGib: size === undefined || size === '' || Number(size) === 0 ? null : Number(size),
    volumeType: volumeType ?? null,
    isSwap: asked.guest_format === 'swap',
    name: asked.device_name ?? null,
    deleteOnTermination: toBoolean(asked.delete_on_termination ?? false),
  };
}

function checkDevice(device: Device, imageId: string): void {
  const { source, destination, id, bootIndex, sizeGib, volumeType } = device;
  if (source === 'blank' && id !== '') throw invalid('Invalid device UUID.');
  if (source !== 'blank' && id === '') throw invalid('Missing device UUID.');
  if (source !== 'blank' && !isUuid(id)) throw invalid(`failed to get ${source} ${shorten(id)}.`);
  if (source !== 'blank' && destination === 'local') {
    const isBoot = source === 'image' && imageId !== '' && bootIndex === 0;
    if (!isBoot) throw invalid(`Mapping ${source} to local is not supported.`);
    if (id !== imageId) throw invalid(`The image to boot from is ${imageId}, not ${id}.`);
  }
  if (volumeType !== null && destination === 'local') {
    throw invalid('Specifying a volume_type with destination_type=local is not supported.');
  }
  if (volumeType !== null && source === 'volume') {
    throw invalid('Specifying volume type to existing volume is not supported.');
  }
  if (destination === 'local' || sizeGib !== null) return;
  if (source === 'image') throw invalid("Images with destination_type 'volume' need to have a non-zero size specified");
  if (source === 'blank') throw invalid("Blank volumes (source: 'blank', dest: 'volume') need to have non-zero size");
}

/** Each device to boot from has a place of its own, from 0 on. */
function checkBootSequence(devices: readonly Device[]): void {
  const indexes = devices.flatMap(({ bootIndex }) => bootIndex ?? []).sort((a, b) => a - b);
  if (indexes.length > 0 && indexes.every((index, place) => index === place)) return;
  throw invalid('Boot sequence for the instance and image/block device mapping combination is not valid.');
}

/** Local disks are what the flavor says: nobody gets larger ones, and smaller ones are not served. */
function checkLocal(devices: readonly Device[], { ephemeralGib, swapMib }: ServerFlavor): void {
  const blank = devices.filter(({ source, destination }) => source === 'blank' && destination === 'local');
  const swaps = blank.filter(({ isSwap }) => isSwap);
  const ephemerals = blank.filter(({ isSwap }) => !isSwap);
  if (swaps.length > 1) throw invalid('More than one swap drive requested.');
  if (swaps.some(({ sizeGib }) => (sizeGib ?? 0) > swapMib)) {
    throw invalid('Swap drive requested is larger than instance type allows.');
  }
  const asked = ephemerals.reduce((sum, { sizeGib }) => sum + (sizeGib ?? ephemeralGib), 0);
  if (asked > ephemeralGib) {
    throw invalid(
      'Ephemeral disks requested are larger than the instance type allows. If no size is given in one block device mapping, flavor ephemeral size will be used.',
    );
  }
  const isOther = (ephemerals.length > 0 && asked < ephemeralGib) || swaps.some(({ sizeGib }) => sizeGib !== swapMib);
  if (isOther || ephemerals.length > 1) {
    throw invalid('Ephemeral and swap disks of another size than the flavor’s are not served. Leave them out.');
  }
}

/** @throws as Nova's InvalidBDM and its kin. */
export function invalid(reason: string): NightlatchError {
  return new NightlatchError('block-device', { reason });
}
