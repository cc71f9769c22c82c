import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { text } from 'node:stream/consumers';
import { describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { CephCluster } from '#test/support/ceph-cluster.ts';
import { judge, parseTestResults } from '#test/support/test-results.ts';

type Suite = { readonly file: string; readonly depth?: 'covering' };

/**
 * The suites of every driver, and of volumes whatever they lie on, over a real Ceph cluster with cephx. `depth`: what lies
 * between the same steps as with files, or fills a cluster whose bytes lie in memory.
 */
const ofVolumes = ['guarantee/volume-copies', 'guarantee/header-backups', 'guarantee/volume-races'];
const SUITES: readonly Suite[] =
  process.env.NIGHTLATCH_TEST_DEPTH === 'covering'
    ? [{ file: 'test/contract/storage-driver.test.ts' }]
    : [
        { file: 'test/contract/storage-driver.test.ts' },
        { file: 'test/contract/encryptor.test.ts' },
        ...[...ofVolumes, 'scenario/boot-from-volume', 'scenario/volume-migration'].map((name) => ({
          file: `test/${name}.test.ts`,
        })),
        ...['scenario/volume-sizes', 'guarantee/volume-crash-points', 'guarantee/volume-move-crash-points'].map(
          (name): Suite => ({ file: `test/${name}.test.ts`, depth: 'covering' }),
        ),
        { file: 'test/guarantee/volume-attach-crash-points.test.ts', depth: 'covering' },
      ];
const RUNNER = fileURLToPath(new URL('../support/run-tests.ts', import.meta.url));

describe('images in a pool', { timeout: 7_200_000 }, () => {
  for (const { file, depth = process.env.NIGHTLATCH_TEST_DEPTH ?? 'all' } of SUITES) {
    test(file, async (t) => {
      await using cluster = await CephCluster.start('volumes');
      // A runner that knows it runs within a test runs nothing.
      const { NODE_TEST_CONTEXT: _, ...own } = process.env;
      const env = {
        ...own,
        NIGHTLATCH_TEST_RBD_POOL: `${cluster.conf}:${cluster.user}:volumes`,
        NIGHTLATCH_TEST_VOLUME_DRIVER: 'rbd',
        NIGHTLATCH_TEST_DEPTH: depth,
      };
      const child = spawn(process.execPath, [RUNNER, file], { env, stdio: ['ignore', 'pipe', 'inherit'] });
      const [said, [code]] = await Promise.all([text(child.stdout), once(child, 'exit')]);
      const results = parseTestResults(said);
      for (const result of results) await t.test(result.name, () => judge(result));
      assert.equal(code, 0, 'the tests did not run to their end');
      assert.ok(results.length > 0, `${file} has no tests over a pool`);
    });
  }
});
