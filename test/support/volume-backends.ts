import type { StorageFormat } from '#core/disk.ts';
import { thinPool, volumeGroup } from '#test/support/volume-group.ts';

/** How volumes lie in each backend of a suite, by its name. */
export type VolumeBackends = Readonly<Record<string, StorageFormat>>;

/** Whether volumes lie on logical volumes, whatever a suite that knows files alone says: NIGHTLATCH_TEST_VOLUME_DRIVER. */
export const isOnLogicalVolumes = process.env.NIGHTLATCH_TEST_VOLUME_DRIVER === 'lvm';

/** What encrypts volumes, in the words of a volume type: logical volumes can have any of them. */
const providers: Readonly<Record<string, string>> = { luks: 'luks', luksv2: 'luks2', plain: 'plain' };
export const providerUnderTest = isOnLogicalVolumes
  ? (providers[process.env.NIGHTLATCH_TEST_FORMAT ?? 'luksv2'] ?? 'none of that name')
  : 'luks';
export const hasHeaderUnderTest = providerUnderTest !== 'plain';

/** Those that a suite's volumes lie in; the service's own, when it names none. */
export function backendsUnderTest(named: VolumeBackends | undefined): VolumeBackends {
  if (!isOnLogicalVolumes) return named ?? {};
  return Object.fromEntries(Object.keys(named ?? { files: 'raw' }).map((name) => [name, 'lvm']));
}

/** Their groups of the configuration file. */
export function backendLines(backends: VolumeBackends): string[] {
  const place = [`volume_group = "${volumeGroup}"`, `thin_pool = "${thinPool}"`];
  return Object.entries(backends).flatMap(([name, storage]) => [
    `[volume_backends.${name}]`,
    `volume_driver = "${storage}"`,
    ...(storage === 'lvm' ? place : []),
  ]);
}
