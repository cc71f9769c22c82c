import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { documented, type Engine, ProtectionWatch } from '#test/support/protection.ts';
import { TroubleLab } from '#test/support/trouble-lab.ts';

/*
 * docs/security.md says what is protected in each state; a server is brought into each and looked at. Disks that the
 * kernel decrypts are held to their table where there is device-mapper, in test/second-kernel/lvm-service.test.ts.
 */

const whole = process.env.NIGHTLATCH_TEST_DEPTH === 'all' ? (['qcow2', 'raw'] as const) : (['qcow2'] as const);

for (const imagesType of whole) {
  describe(`a server with disks as ${imagesType} is protected as the document says`, { timeout: 600_000 }, () => {
    let lab: TroubleLab;
    let id: string;
    let watch: ProtectionWatch;
    before(async () => {
      lab = await TroubleLab.open({ imagesType });
      id = await lab.create('three-disks', { config_drive: true });
      await lab.cloud.waitForStatus(id, 'ACTIVE');
      watch = await ProtectionWatch.of(lab, id);
    });
    after(async () => lab[Symbol.asyncDispose]());

    const ways: Readonly<Record<string, readonly [there: object, back: object] | null>> = {
      running: null,
      paused: [{ pause: null }, { unpause: null }],
      suspended: [{ suspend: null }, { resume: null }],
      stopped: [{ 'os-stop': null }, { 'os-start': null }],
    };
    for (const [state, way] of Object.entries(ways)) {
      test(`while ${state}`, async () => {
        if (way) await lab.actAndSettle(id, way[0]);
        try {
          await watch.expectDocumented('QEMU', state);
        } finally {
          if (way) await lab.actAndSettle(id, way[1]);
        }
      });
    }

    test('once deleted', async () => {
      await lab.delete(id);
      await watch.expectDocumented('QEMU', 'deleted');
    });
  });
}

test('a host that is stolen has what the states of its servers say, as the document says', async () => {
  for (const engine of ['QEMU', 'the kernel'] satisfies Engine[]) {
    // Off is what a power cut leaves; see power-cut.test.ts, which looks before the service starts.
    assert.deepEqual(await documented(engine, 'host stolen while off'), await documented(engine, 'stopped'));
    const running = Object.entries(await documented(engine, 'running'));
    const asRunning = running.map(([column, cell]) => [column, /store|medium/.test(column) ? cell : 'as running']);
    assert.deepEqual(await documented(engine, 'host stolen while on'), Object.fromEntries(asRunning));
  }
});
