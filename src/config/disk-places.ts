import type { Config } from '#config/schema.ts';

/** Volume groups in which this host keeps disks, and the thin pools in them. */
export function volumeGroupsOf({ libvirt, volume_backends }: Config): { groups: string[]; thinPools: string[] } {
  const lvm = Object.values(volume_backends).filter(({ volume_driver }) => volume_driver === 'lvm');
  const named = (names: readonly string[]) => [...new Set(names)].filter((name) => name !== '');
  return {
    groups: named([libvirt.images_volume_group, ...lvm.map(({ volume_group }) => volume_group)]),
    thinPools: named([libvirt.images_thin_pool, ...lvm.map(({ thin_pool }) => thin_pool)]),
  };
}
