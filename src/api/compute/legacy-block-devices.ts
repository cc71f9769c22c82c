import type { BlockDevice } from '#api/compute/server-schemas.ts';

/** What Nova calls the root disk of a server whose image does not say. */
const ROOT_DEVICE = 'vda';

/**
 * The first version of block device mappings in terms of the second, the image that is booted from among them. The server
 * boots from what is mapped to the root device, else from the image, else from the first that is not blank. See Nova's
 * `BlockDeviceDict.from_legacy` and `from_legacy_mapping`.
 */
export function fromLegacy(listed: readonly BlockDevice[], imageId: string): BlockDevice[] {
  const devices = listed.filter(({ no_device }) => no_device == null).map(deviceFrom);
  const root = devices.findIndex(({ device_name }) => withoutDev(device_name) === ROOT_DEVICE);
  const first = devices.findIndex(({ source_type }) => source_type !== 'blank');
  const boot = root >= 0 ? root : imageId === '' ? first : -1;
  const image: BlockDevice[] =
    imageId !== '' && boot < 0
      ? [{ source_type: 'image', destination_type: 'local', uuid: imageId, boot_index: 0, delete_on_termination: true }]
      : [];
  return [...image, ...devices.map((device, place) => ({ ...device, boot_index: place === boot ? 0 : -1 }))];
}

function deviceFrom(legacy: BlockDevice): BlockDevice {
  const { volume_id, snapshot_id, virtual_name, device_name, volume_size, delete_on_termination } = legacy;
  const common: BlockDevice = {
    ...(device_name == null ? {} : { device_name }),
    ...(volume_size == null ? {} : { volume_size }),
    ...(delete_on_termination == null ? {} : { delete_on_termination }),
  };
  if (volume_id != null) return { ...common, source_type: 'volume', destination_type: 'volume', uuid: volume_id };
  if (snapshot_id != null) return { ...common, source_type: 'snapshot', destination_type: 'volume', uuid: snapshot_id };
  const swap = virtual_name === 'swap' ? ({ guest_format: 'swap' } as const) : {};
  return { ...common, ...swap, source_type: 'blank', destination_type: 'local' };
}

function withoutDev(name: string | null | undefined): string | null {
  return name?.replace(/^\/dev\//, '') ?? null;
}
