import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { text } from 'node:stream/consumers';
import { after, before, describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { CephCluster } from '#test/support/ceph-cluster.ts';
import { judge, parseTestResults } from '#test/support/test-results.ts';

/** The suites of every driver, over a real Ceph cluster with cephx. */
const SUITES =
  process.env.NIGHTLATCH_TEST_DEPTH === 'covering'
    ? ['test/contract/storage-driver.test.ts']
    : ['test/contract/storage-driver.test.ts', 'test/contract/encryptor.test.ts'];
const RUNNER = fileURLToPath(new URL('../support/run-tests.ts', import.meta.url));

describe('images in a pool', { timeout: 900_000 }, () => {
  let cluster: CephCluster;
  before(async () => {
    cluster = await CephCluster.start('volumes');
  });
  after(async () => cluster?.[Symbol.asyncDispose]());

  for (const suite of SUITES) {
    test(suite, async (t) => {
      // A runner that knows it runs within a test runs nothing.
      const { NODE_TEST_CONTEXT: _, ...own } = process.env;
      const env = { ...own, NIGHTLATCH_TEST_RBD_POOL: `${cluster.conf}:${cluster.user}:volumes` };
      const child = spawn(process.execPath, [RUNNER, suite], { env, stdio: ['ignore', 'pipe', 'inherit'] });
      const [said, [code]] = await Promise.all([text(child.stdout), once(child, 'exit')]);
      const results = parseTestResults(said);
      for (const result of results) await t.test(result.name, () => judge(result));
      assert.equal(code, 0, 'the tests did not run to their end');
      assert.ok(results.length > 0, `${suite} has no tests over a pool`);
    });
  }
});
