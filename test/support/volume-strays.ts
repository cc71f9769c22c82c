import { stat } from 'node:fs/promises';
import type { Selectable } from 'kysely';
import type { Schema } from '#db/schema.ts';
import { luksEngineUnderTest } from '#test/support/service.ts';
import {
  type CryptMapping,
  cryptMappings,
  type DiskVolume,
  diskKeysInKeyrings,
  diskVolumes,
  headerUuid,
} from '#test/support/volume-group.ts';

type DiskRow = Selectable<Schema['disks']>;
type Lease = Pick<Selectable<Schema['leases']>, 'disk_id'>;

/** Whether the kernel decrypts a disk for its guest; QEMU does it otherwise. */
export function isByKernel({ encryption }: Pick<DiskRow, 'encryption'>): boolean {
  return encryption === 'luks' ? luksEngineUnderTest === 'dm-crypt' : encryption !== null;
}

/**
 * As `findStrays`, of logical volumes: volumes without a row and rows without a volume; mappings of disks that have no
 * lease, unless they have no key and let nothing through; leases without a mapping that has its key; mappings over another
 * disk's volume or header; keys in the kernel's keyrings.
 */
export async function findVolumeStrays(disks: readonly DiskRow[], leases: readonly Lease[]): Promise<string[]> {
  const [volumes, mappings, keys] = await Promise.all([diskVolumes(), cryptMappings(), diskKeysInKeyrings()]);
  const strays = keys.map((line) => `the kernel's keyring holds ${line}`);
  for (const { name, diskId } of volumes) {
    if (!disks.some(({ id }) => id === diskId)) strays.push(`volume ${name} is no disk's`);
  }
  for (const disk of disks) {
    const volume = volumes.find(({ diskId }) => diskId === disk.id);
    if (!volume) strays.push(`${disk.role} disk ${disk.id} has no volume`);
    const mapping = mappings.find(({ name }) => name === mappingName(disk));
    const isLeased = isByKernel(disk) && leases.some((lease) => lease.disk_id === disk.id);
    if (isLeased && !mapping?.hasKey) strays.push(`${disk.role} disk ${disk.id} is leased and locked`);
    if (mapping && !isLeased && (mapping.hasKey || !mapping.suspended))
      strays.push(`${disk.role} disk ${disk.id} is open without a lease`);
    if (mapping && volume) strays.push(...(await wrongIn(mapping, disk, volume)));
  }
  const known = new Set(disks.map(mappingName));
  for (const { name } of mappings) if (!known.has(name)) strays.push(`the mapping ${name} is no disk's`);
  return strays;
}

function mappingName(disk: DiskRow): string {
  return `nl-${disk.owner_id}-${disk.id}`;
}

async function wrongIn(mapping: CryptMapping, disk: DiskRow, volume: DiskVolume): Promise<string[]> {
  const { rdev } = await stat(volume.path);
  const device = `${(rdev >>> 8) & 0xfff}:${(rdev & 0xff) | ((rdev >>> 12) & 0xfff00)}`;
  const type = { plain: 'PLAIN', luks: 'LUKS1', luksv2: 'LUKS2' }[disk.encryption ?? 'plain'];
  const own = disk.encryption === 'plain' ? '' : `${(await headerUuid(volume.path)).replaceAll('-', '')}-`;
  const uuid = `CRYPT-${type}-${own}${mapping.name}`;
  return [
    ...(mapping.device === device ? [] : [`the mapping ${mapping.name} is over ${mapping.device}, not ${device}`]),
    ...(mapping.uuid === uuid ? [] : [`the mapping ${mapping.name} has the UUID ${mapping.uuid}, not ${uuid}`]),
  ];
}
