import { after, before, describe, test } from 'node:test';
import { GIB } from '#core/sizes.ts';
import { SecondKernel } from '#test/support/second-kernel.ts';

/**
 * The contract suites over what needs device-mapper, inside a second kernel: the same files as for every other driver,
 * told by their environment what to run over.
 */
const GROUP = 'nl-test';
const SUITES = ['storage-driver', 'encryptor', 'disk-fill'].map((name) => `test/contract/${name}.test.ts`);
const OWN = ['lvm-volumes', 'dm-crypt', 'lvm-host'].map((name) => `test/second-kernel/${name}.test.ts`);

/** Everything takes some twenty minutes there; `npm test` runs a part that touches every driver. */
const COVERING = ['test/second-kernel/dm-crypt.test.ts', 'test/second-kernel/lvm-volumes.test.ts'];
const isCovering = process.env.NIGHTLATCH_TEST_DEPTH === 'covering';

const variants: Readonly<Record<string, { files: string[]; env: Record<string, string>; setUp: string }>> = {
  'logical volumes': {
    files: [...SUITES, ...OWN],
    env: {},
    setUp: 'true',
  },
  'logical volumes, LUKSv1 by the kernel': {
    files: ['test/contract/encryptor.test.ts'],
    env: { NIGHTLATCH_TEST_LUKS_ENGINE: 'dm-crypt', NIGHTLATCH_TEST_FORMATS: 'luks' },
    setUp: 'true',
  },
  'a thin pool': {
    files: ['test/contract/storage-driver.test.ts'],
    env: { NIGHTLATCH_TEST_THIN_POOL: 'pool', NIGHTLATCH_TEST_FORMATS: 'luksv2' },
    setUp: `lvcreate -q -y --type thin-pool -L 20G -n pool ${GROUP}`,
  },
};

for (const [name, { files: all, env, setUp }] of Object.entries(variants)) {
  const files = isCovering ? all.filter((file) => COVERING.includes(file)) : all;
  if (files.length === 0) continue;
  describe(`inside a second kernel: ${name}`, { timeout: 2_400_000 }, () => {
    let kernel: SecondKernel;
    before(async () => {
      kernel = await SecondKernel.start({ disks: [200 * GIB] });
      await kernel.must('vgcreate', '-q', GROUP, ...kernel.disks);
      await kernel.must('sh', '-c', setUp);
    });
    after(async () => kernel[Symbol.asyncDispose]());

    for (const file of files) {
      test(file, async (t) => {
        await kernel.runTests(t, [file], {
          timeoutMs: 1_200_000,
          env: { ...env, NIGHTLATCH_TEST_VOLUME_GROUP: GROUP },
        });
      });
    }
  });
}
