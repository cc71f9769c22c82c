import assert from 'node:assert/strict';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import type { JsonObject } from '#cli/cloud/client.ts';
import type { HostName } from '#core/ids.ts';
import { connectPool, openDatabase } from '#db/database.ts';
import { recordBoot, recordedBoot } from '#db/hosts.ts';
import { CrashLab } from '#test/support/crash-lab.ts';
import { destroyState, guestsOf, processesOf } from '#test/support/destroy-state.ts';
import { waitUntil } from '#test/support/wait.ts';

/*
 * The host boots: every process and every mount of the service ends at once, guests included, and its kernel has another
 * boot id, for which here the one that is recorded is made another. What a real kernel loses besides is tested in one.
 */

const HOST = 'testhost' as HostName;
const RESUME = 'resume_guests_state_on_host_boot = true';
type States = Readonly<Record<string, string>>;

async function withDatabase<T>(lab: CrashLab, use: (db: ReturnType<typeof openDatabase>) => Promise<T>): Promise<T> {
  const host = join(lab.service.stateDirectory, 'postgresql');
  await using db = openDatabase(connectPool({ host, user: 'nightlatch', database: 'nightlatch' }));
  return await use(db);
}

const isWhole = process.env.NIGHTLATCH_TEST_DEPTH === 'all';

for (const resumes of isWhole ? [true, false] : [true]) {
  describe(`a host that boots, guests ${resumes ? 'resumed' : 'left off'}`, { timeout: 300_000 }, () => {
    let lab: CrashLab;
    const ids: Record<string, string> = {};
    const letters: Record<string, string> = {};
    before(async () => {
      lab = await CrashLab.open(resumes ? { defaults: RESUME } : {});
      const all = {
        running: null,
        paused: { pause: null },
        suspended: { suspend: null },
        stopped: { 'os-stop': null },
      };
      await Promise.all(Object.entries(all).map(([name, action]) => prepare(name, action)));
    });
    after(() => lab[Symbol.asyncDispose]());

    const prepare = async (name: string, action: JsonObject | null) => {
      const id = await lab.create(name);
      ids[name] = id;
      await lab.cloud.waitForStatus(id, 'ACTIVE');
      letters[name] = await lab.expectBooted(id);
      if (action === null) return;
      await lab.cloud.act(id, action);
      await lab.cloud.waitForStatus(id, { paused: 'PAUSED', suspended: 'SUSPENDED' }[name] ?? 'SHUTOFF');
    };
    const expectStates = async (expected: States) => {
      for (const [name, status] of Object.entries(expected)) await lab.cloud.waitForStatus(ids[name] ?? '', status);
      await lab.expectNoStrays();
    };
    const relaunch = async (environment: Record<string, string> = {}) => {
      await lab.service.launch(environment);
      lab.cloud = await lab.service.client();
    };
    const powerCut = async () => {
      await lab.service.end('SIGKILL');
      const pids = await processesOf(lab.service.stateDirectory);
      await destroyState(lab.service.stateDirectory);
      // What is dead but not yet buried looks alive to PostgreSQL's own tools.
      await waitUntil('every process is gone', async () => !pids.some(isThere));
    };

    it('settles what ran, or starts it again, also when the first start after the boot is cut short', async () => {
      await withDatabase(lab, (db) => recordBoot(db, HOST, 'an earlier boot'));
      await powerCut();
      if (resumes) {
        lab.service.spawn({ NIGHTLATCH_CRASH_AT: 'operations.recorded' });
        await lab.service.ended(60_000);
        assert.equal((await guestsOf(lab.service.stateDirectory)).length, 0);
      }
      await relaunch();
      const running = resumes ? 'ACTIVE' : 'SHUTOFF';
      await expectStates({ running, paused: 'SHUTOFF', suspended: 'SUSPENDED', stopped: 'SHUTOFF' });
      if (resumes) await lab.expectBooted(ids.running ?? '');
      assert.notEqual(await withDatabase(lab, (db) => recordedBoot(db, HOST)), 'an earlier boot');
    });

    it('does so once: a guest that ends later is settled', async () => {
      const [guest] = await guestsOf(lab.service.stateDirectory);
      if (guest) process.kill(guest, 'SIGKILL');
      await expectStates({ running: 'SHUTOFF' });
    });

    it('starts nothing when every guest is gone and there was no boot', async () => {
      await lab.cloud.act(ids.running ?? '', { 'os-start': null });
      await lab.cloud.waitForStatus(ids.running ?? '', 'ACTIVE');
      await powerCut();
      await relaunch();
      await expectStates({ running: 'SHUTOFF', suspended: 'SUSPENDED' });
    });

    it('keeps the memory of the suspended', async () => {
      const id = ids.suspended ?? '';
      await lab.cloud.act(id, { resume: null });
      await lab.cloud.waitForStatus(id, 'ACTIVE');
      await lab.expectLetter(id, letters.suspended ?? '');
    });
  });
}

function isThere(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}
