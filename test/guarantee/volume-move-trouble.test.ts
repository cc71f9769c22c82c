import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { sql } from 'kysely';
import { MIB } from '#core/sizes.ts';
import { command } from '#test/support/command.ts';
import { guestsOf } from '#test/support/destroy-state.ts';
import { MoveLab } from '#test/support/move-lab.ts';
import { nightlatch } from '#test/support/nightlatch-command.ts';
import { SmallDisk } from '#test/support/small-disk.ts';
import { waitUntil } from '#test/support/wait.ts';

/*
 * Trouble while the data of a volume moves under a guest that writes all the time: it ends with the volume as it was, or it
 * goes on once the trouble is over. The guest is not stopped, loses nothing, and nothing is left behind.
 */

const BACKENDS = [
  '[volume_backends.wide]',
  'volume_driver = "qcow2"',
  '[volume_backends.small]',
  'volume_driver = "qcow2"',
  '[volume_backends.smallraw]',
].join('\n');
/** Where a test asks for nothing else; bytes per second. */
const LIMIT = MIB;
const isWhole = process.env.NIGHTLATCH_TEST_DEPTH === 'all';
const whole = isWhole ? it : () => {};

describe('trouble while the data of a volume moves', { timeout: 1_800_000 }, () => {
  let lab: MoveLab;
  let small: SmallDisk;
  before(async () => {
    const prepare = async (state: string) => {
      small = await SmallDisk.mount(state);
      for (const backend of ['small', 'smallraw']) await small.holds(join(state, 'volumes', backend));
    };
    const defaults = `volume_copy_bps_limit = ${LIMIT}`;
    lab = await MoveLab.open({ more: BACKENDS, defaults, prepare }, 'wide', async (volumes) => {
      for (const name of ['wide', 'small', 'smallraw'])
        await volumes.addEncryptedType(name, { volume_backend_name: name });
    });
  });
  after(() => lab[Symbol.asyncDispose]());

  const cli = (...args: string[]) => nightlatch('volume', ...args, '--config', lab.lab.servers.service.configFile);
  const retype = (type: string) => lab.act({ 'os-retype': { new_type: type, migration_policy: 'on-demand' } });
  const pidOf = async (daemon: string) =>
    Number(await readFile(join(lab.lab.servers.service.stateDirectory, `run/lv/${daemon}.pid`), 'utf8'));

  for (const type of isWhole ? ['small', 'smallraw'] : ['small']) {
    for (const freeKib of !isWhole ? [] : type === 'small' ? [0, 1024, 6144] : [64 * 1024]) {
      it(`a backend (${type}) with ${freeKib} KiB free is not begun to be filled`, async () => {
        const facts = await lab.facts();
        await small.leave(freeKib * 1024);
        const free = await small.free();
        await retype(type);
        const { status, reason } = await lab.ended();
        assert.equal(status, 'error');
        assert.match(reason, /Moving the data of volume .* failed: no space left on .*small.*The volume is as it was/);
        await lab.expectAsBefore(facts);
        assert.equal(await small.free(), free);
        await small.empty();
      });
    }

    it(`a backend (${type}) that is full half-way: the guest goes on with what it had`, async () => {
      const facts = await lab.facts();
      // QEMU writes the first 16 MiB at once, whatever the speed.
      await lab.run(`dd if=/dev/urandom of=${await lab.writer.device()} bs=1M seek=20 count=32 conv=fsync 2>/dev/null`);
      await retype(type);
      await lab.begun();
      await small.leave(MIB);
      const { status, reason } = await lab.ended();
      assert.equal(status, 'error');
      assert.match(reason, /Moving the data of volume .* failed: no space left on .*volumes\/small/);
      await lab.expectAsBefore(facts);
      await small.empty();
    });
  }

  whole(
    'a file system that is full, which the guest lies on too: what it was to write is written when the move has ended',
    async () => {
      await retype('small');
      await lab.hurry();
      await lab.ended();
      await lab.rekey(2);
      await lab.begun(lab.volume, 4 * MIB);
      const device = await lab.writer.device();
      const fresh = `dd if=/dev/zero of=${device} bs=64k seek=4096 count=32 conv=fsync; echo done >/tmp/fresh`;
      await small.leave(0);
      await lab.run(`(${fresh}) >/dev/null 2>&1 &`);
      const { status, reason } = await lab.ended();
      assert.equal(status, 'error');
      assert.match(reason, /no space left on/);
      await lab.goesOn();
      await waitUntil(
        'what found no room is written',
        async () => (await lab.run('cat /tmp/fresh')) === 'done',
        60_000,
      );
      await lab.noStrays();
      await small.empty();
      await retype('wide');
      await lab.hurry();
      await lab.ended();
      assert.equal((await lab.facts()).type, 'wide');
    },
  );

  it('the database refuses to name the other disk: the guest waits, paused, and goes on with it once the row does', async () => {
    const { db, cloud } = lab.lab.servers;
    const facts = await lab.facts();
    await sql`create function refuse() returns trigger language plpgsql as $$ begin raise exception 'no room for rows'; end $$`.execute(
      db,
    );
    await sql`create trigger refuse before update on disks for each row when (new.standing = 'kept') execute function refuse()`.execute(
      db,
    );
    try {
      await lab.rekey();
      const waits = async () => /no room for rows/.test((await lab.migration()).reason);
      await waitUntil('it says what it waits for', waits, 60_000);
      await sleep(5000);
      assert.equal((await lab.migration()).status, 'running');
      const { 'OS-EXT-STS:task_state': task } = await cloud.server(lab.server);
      assert.equal(task, 'block_device_mapping');
      const { status } = await cloud.request('compute', 'POST', `/v2.1/servers/${lab.server}/action`, {
        body: { 'os-stop': null },
      });
      assert.equal(status, 409);
      // Too late: QEMU has the other disk.
      await lab.act({ 'nightlatch:cancel_migration': null });
    } finally {
      await sql`drop trigger refuse on disks; drop function refuse()`.execute(db);
    }
    await lab.expectMoved(facts);
    await lab.goesOn();
  });

  it('what the volume had before cannot be destroyed: it is moved and says so, and the next move destroys it', async () => {
    const facts = await lab.facts();
    await lab.lab.crashAt(
      'steps.move-volume.exchanged',
      () => lab.rekey(),
      async () => void command('chattr', ['+i', facts.medium]),
    );
    try {
      const { status, reason } = await lab.ended();
      assert.equal(status, 'completed');
      assert.match(reason, /not permitted/);
      const { code, stderr } = await cli('migration', 'data');
      assert.equal(code, 1);
      assert.match(stderr, /was moved[\s\S]*what volume .* had before is not destroyed: .*not permitted/);
      await lab.lab.reach('volume', lab.volume, 'in-use');
      const moved = await lab.facts();
      assert.notEqual(moved.medium, facts.medium);
      await lab.goesOn();
      // As long as it is there, so is its secret: nobody loses what he does not know of.
      assert.equal(await lab.lab.opens(facts.secret as never, { path: facts.medium as never, format: 'qcow2' }), true);
      await lab.rekey();
      assert.match((await lab.ended()).reason, /not permitted/);
      assert.deepEqual(await lab.facts(), moved);
    } finally {
      command('chattr', ['-i', facts.medium]);
    }
    const before = await lab.facts();
    await lab.rekey();
    await lab.expectMoved(before);
    await lab.goesOn();
  });

  whole('cancelled before it has begun, while a clone of the volume is being made', async () => {
    const facts = await lab.facts();
    const { volume: clone } = await lab.lab.must('POST', '/volumes', { volume: { source_volid: lab.volume } });
    await lab.rekey();
    await lab.act({ 'nightlatch:cancel_migration': null });
    assert.equal((await lab.ended()).status, 'cancelled');
    await lab.lab.reach('volume', clone.id, 'available');
    await lab.expectAsBefore(facts);
    await lab.lab.delete('volume', clone.id);
  });

  whole('libvirtd ends: the mirror goes on in QEMU, and is followed once libvirt is back', async () => {
    const facts = await lab.facts();
    await lab.rekey(1);
    await lab.begun();
    process.kill(await pidOf('libvirtd'), 'SIGKILL');
    await lab.hurry();
    await lab.expectMoved(facts);
    await lab.goesOn();
  });

  whole('the server is rebooted by force: the mirror is begun anew', async () => {
    const facts = await lab.facts();
    await lab.rekey(1);
    await lab.begun();
    await lab.lab.servers.cloud.act(lab.server, { reboot: { type: 'HARD' } });
    await lab.rebooted();
    await lab.hurry();
    await lab.expectMoved(facts);
    await lab.writer.expectRest();
    await lab.writer.start();
  });

  for (const [how, end] of [
    [
      'QEMU is killed',
      async () => process.kill((await guestsOf(lab.lab.servers.service.stateDirectory))[0] ?? 0, 'SIGKILL'),
    ],
    ['the guest powers itself off', async () => await lab.run('(sleep 1; poweroff -f) >/dev/null 2>&1 &')],
  ] as const) {
    whole(`${how}: the data is copied without a guest, and is there when it starts again`, async () => {
      const facts = await lab.facts();
      await lab.rekey(1);
      await lab.begun();
      await end();
      await lab.lab.servers.cloud.waitForStatus(lab.server, 'SHUTOFF');
      await lab.hurry();
      await lab.expectMoved(facts);
      await lab.boot();
      await lab.writer.expectRest();
      await lab.writer.start();
    });
  }

  whole('the host is locked: the guest is gone; the volume is as it was, or moved once that has ended', async () => {
    const facts = await lab.facts();
    await lab.rekey(1);
    await lab.begun();
    const { configFile } = lab.lab.servers.service;
    const { code, stderr } = await nightlatch('host', 'lock', '--all', '--yes', '--config', configFile);
    assert.equal(code, 0, stderr);
    const { status, reason } = await lab.ended();
    if (status === 'completed') await lab.expectMoved(facts);
    else {
      assert.match(reason, /being locked/);
      assert.deepEqual(await lab.facts(), facts);
      await lab.noStrays();
    }
    await lab.boot();
    await lab.writer.expectRest();
    await lab.writer.start();
  });
});
