import { after, before, describe, test } from 'node:test';
import { GIB } from '#core/sizes.ts';
import { livePowerCuts } from '#test/support/power-cut.ts';
import { SecondKernel } from '#test/support/second-kernel.ts';

/**
 * What needs device-mapper, inside a second kernel: the same suites as for every other driver, told by their environment
 * what to run over, and those of logical volumes alone.
 */
const GROUP = 'nl-test';
const isCovering = process.env.NIGHTLATCH_TEST_DEPTH === 'covering';

type Suite = { readonly file: string; readonly env?: Readonly<Record<string, string>>; readonly covering?: true };
type Variant = { readonly setUp: string; readonly suites: readonly Suite[] };

const onVolumes = (format: string) => ({ NIGHTLATCH_TEST_IMAGES_TYPE: 'lvm', NIGHTLATCH_TEST_FORMAT: format });
/** The volumes of block storage; the servers' own disks lie as the suite says. */
const ofBlockStorage = (format: string) => ({
  NIGHTLATCH_TEST_VOLUME_DRIVER: 'lvm',
  NIGHTLATCH_TEST_THIN_POOL: 'pool',
  NIGHTLATCH_TEST_FORMAT: format,
});

/** Everything takes hours there; `npm test` runs a part that touches every driver and the service as a whole. */
const variants: Readonly<Record<string, Variant>> = {
  'logical volumes': {
    setUp: 'true',
    suites: [
      { file: 'test/second-kernel/dm-crypt.test.ts', covering: true },
      { file: 'test/second-kernel/lvm-volumes.test.ts', covering: true },
      { file: 'test/second-kernel/suspended-mapping.test.ts' },
      { file: 'test/second-kernel/unprivileged.test.ts' },
      { file: 'test/second-kernel/unprivileged-service.test.ts', env: { NIGHTLATCH_TEST_LUKS_ENGINE: 'dm-crypt' } },
      { file: 'test/second-kernel/lvm-service.test.ts' },
      { file: 'test/second-kernel/lvm-host.test.ts' },
      { file: 'test/second-kernel/lvm-attached.test.ts' },
      { file: 'test/second-kernel/lvm-block-storage.test.ts' },
      { file: 'test/second-kernel/lvm-legacy.test.ts' },
      { file: 'test/second-kernel/lock-on-pause-service.test.ts' },
      { file: 'test/second-kernel/move-while-paused.test.ts' },
      { file: 'test/contract/storage-driver.test.ts' },
      { file: 'test/contract/encryptor.test.ts' },
      { file: 'test/contract/disk-fill.test.ts' },
      { file: 'test/scenario/server-images.test.ts', env: onVolumes('luksv2') },
      { file: 'test/scenario/resize-rebuild.test.ts', env: onVolumes('luksv2') },
      { file: 'test/scenario/rescue.test.ts', env: onVolumes('luksv2') },
    ],
  },
  'crash points on logical volumes': {
    setUp: 'true',
    suites: ['luksv2', 'plain'].flatMap((format) => [
      { file: 'test/guarantee/crash-points.test.ts', env: onVolumes(format) },
      { file: 'test/guarantee/undo.test.ts', env: onVolumes(format) },
    ]),
  },
  // What was never written takes no room in a thin pool, and no time to copy.
  'block storage on logical volumes': {
    setUp: `lvcreate -q -y --type thin-pool -L 100G -n pool ${GROUP}`,
    suites: [
      { file: 'test/guarantee/volume-copies.test.ts', env: ofBlockStorage('luksv2') },
      { file: 'test/guarantee/header-backups.test.ts', env: ofBlockStorage('luksv2') },
      { file: 'test/guarantee/volume-races.test.ts', env: ofBlockStorage('luksv2') },
      // A point of each operation: all take a working day here, and lie between the same steps as with files.
      {
        file: 'test/guarantee/volume-crash-points.test.ts',
        env: { ...ofBlockStorage('luksv2'), NIGHTLATCH_TEST_DEPTH: 'covering' },
      },
    ],
  },
  'logical volumes, LUKSv1 by the kernel': {
    setUp: 'true',
    suites: [
      {
        file: 'test/contract/encryptor.test.ts',
        env: { NIGHTLATCH_TEST_LUKS_ENGINE: 'dm-crypt', NIGHTLATCH_TEST_FORMATS: 'luks' },
      },
      {
        file: 'test/second-kernel/lvm-service.test.ts',
        env: { NIGHTLATCH_TEST_LUKS_ENGINE: 'dm-crypt', NIGHTLATCH_TEST_FORMATS: 'luks' },
      },
      {
        file: 'test/second-kernel/lock-on-pause-service.test.ts',
        env: { NIGHTLATCH_TEST_LUKS_ENGINE: 'dm-crypt', NIGHTLATCH_TEST_FORMATS: 'luks' },
      },
    ],
  },
  'a thin pool': {
    setUp: `lvcreate -q -y --type thin-pool -L 20G -n pool ${GROUP}`,
    suites: [
      {
        file: 'test/contract/storage-driver.test.ts',
        env: { NIGHTLATCH_TEST_THIN_POOL: 'pool', NIGHTLATCH_TEST_FORMATS: 'luksv2' },
      },
      {
        file: 'test/second-kernel/lvm-service.test.ts',
        env: { NIGHTLATCH_TEST_THIN_POOL: 'pool', NIGHTLATCH_TEST_FORMATS: 'luksv2' },
      },
    ],
  },
};

for (const [name, { setUp, suites: all }] of Object.entries(variants)) {
  const suites = all.filter(({ covering }) => covering || !isCovering);
  if (suites.length === 0) continue;
  describe(`inside a second kernel: ${name}`, { timeout: 43_200_000 }, () => {
    let kernel: SecondKernel;
    before(async () => {
      kernel = await SecondKernel.start({ disks: [200 * GIB], memoryMib: 4096 });
      await kernel.must('vgcreate', '-q', GROUP, ...kernel.disks);
      await kernel.must('sh', '-c', setUp);
    });
    after(async () => kernel[Symbol.asyncDispose]());

    for (const { file, env = {} } of suites) {
      test(`${file} ${Object.values(env).join(' ')}`.trimEnd(), async (t) => {
        const depth = process.env.NIGHTLATCH_TEST_DEPTH ?? 'covering';
        const common = { NIGHTLATCH_TEST_VOLUME_GROUP: GROUP, NIGHTLATCH_TEST_DEPTH: depth };
        await kernel.runTests(t, [file], { timeoutMs: 21_600_000, env: { ...common, ...env } });
      });
    }
  });
}

if (!isCovering) {
  test('a host whose power is cut while servers on logical volumes run', { timeout: 7_200_000 }, (t) =>
    livePowerCuts(t, GROUP),
  );
}
