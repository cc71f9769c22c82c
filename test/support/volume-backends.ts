import type { StorageFormat } from '#core/disk.ts';
import { poolOf } from '#test/support/pool.ts';
import { thinPool, volumeGroup } from '#test/support/volume-group.ts';

/** How volumes lie in each backend of a suite, by its name. */
export type VolumeBackends = Readonly<Record<string, StorageFormat>>;

/** How volumes lie, whatever a suite that knows files alone says: `lvm` or `rbd` (NIGHTLATCH_TEST_VOLUME_DRIVER). */
const driver = process.env.NIGHTLATCH_TEST_VOLUME_DRIVER;
export const isOnLogicalVolumes = driver === 'lvm';
export const isInPool = driver === 'rbd';

/** What encrypts volumes, in the words of a volume type: logical volumes can have any of them. */
const providers: Readonly<Record<string, string>> = { luks: 'luks', luksv2: 'luks2', plain: 'plain' };
export const providerUnderTest = isOnLogicalVolumes
  ? (providers[process.env.NIGHTLATCH_TEST_FORMAT ?? 'luksv2'] ?? 'none of that name')
  : 'luks';
export const hasHeaderUnderTest = providerUnderTest !== 'plain';

/** Those that a suite's volumes lie in; the service's own, when it names none. */
export function backendsUnderTest(named: VolumeBackends | undefined): VolumeBackends {
  if (!isOnLogicalVolumes && !isInPool) return named ?? {};
  const storage = isInPool ? 'rbd' : 'lvm';
  return Object.fromEntries(Object.keys(named ?? { files: 'raw' }).map((name) => [name, storage]));
}

/** Their groups of the configuration file. */
export function backendLines(backends: VolumeBackends): string[] {
  return Object.entries(backends).flatMap(([name, storage]) => [
    `[volume_backends.${name}]`,
    `volume_driver = "${storage}"`,
    ...placeLines(name, storage),
  ]);
}

function placeLines(backend: string, storage: StorageFormat): string[] {
  if (storage === 'lvm') return [`volume_group = "${volumeGroup}"`, `thin_pool = "${thinPool}"`];
  if (storage !== 'rbd') return [];
  const { name, conf, user } = poolOf(backend);
  return [`rbd_pool = "${name}"`, `rbd_ceph_conf = "${conf}"`, `rbd_user = "${user}"`];
}
