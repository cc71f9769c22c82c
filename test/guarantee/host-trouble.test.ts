import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import type { JsonObject } from '#cli/cloud/client.ts';
import type { DiskSpec } from '#core/disk.ts';
import { Secret } from '#core/secret.ts';
import { MIB } from '#core/sizes.ts';
import { asDisk, disksOf } from '#db/disks.ts';
import { run } from '#host/exec.ts';
import { qcow2Storage } from '#host/storage/qcow2/driver.ts';
import { rawStorage } from '#host/storage/raw/driver.ts';
import { readRootKey } from '#keys/local/root-key.ts';
import { wrap } from '#keys/local/wrap.ts';
import { command } from '#test/support/command.ts';
import { SmallDisk } from '#test/support/small-disk.ts';
import { TroubleLab } from '#test/support/trouble-lab.ts';
import { waitUntil } from '#test/support/wait.ts';

/*
 * Trouble on the host, met by the whole service: each ends in an OpenStack error or a fault that says what to do, nothing
 * is left behind, and the service goes on.
 */

const isWhole = process.env.NIGHTLATCH_TEST_DEPTH === 'all';
const start = { 'os-start': null };
const stop = { 'os-stop': null };

describe('a host whose disk is full', { timeout: 600_000 }, () => {
  for (const imagesType of ['raw', 'qcow2'] as const) {
    // The tests build on one another: the first brings the image into the host's cache.
    describe(`(${imagesType})`, () => {
      let lab: TroubleLab;
      let small: SmallDisk;
      before(async () => {
        const prepare = async (state: string) => {
          small = await SmallDisk.mount(state);
          for (const folder of ['disks', 'images', 'cache/images']) await small.holds(join(state, folder));
        };
        lab = await TroubleLab.open({ imagesType, prepare });
      });
      after(() => lab[Symbol.asyncDispose]());

      it('says so when an image does not fit, and keeps nothing of it', async () => {
        const file = join(lab.service.directory, 'large');
        await writeFile(file, Buffer.alloc(4 * MIB, 1));
        await small.leave(MIB);
        const free = await small.free();
        await assert.rejects(lab.cloud.uploadImage('large', file, 'raw'), /413.*the image store is full/);
        assert.equal(await small.free(), free);
        const failed = await lab.settled(await lab.create());
        // The image of the lab is not in the host's cache yet, and does not fit there.
        assert.equal(failed?.status, 'ERROR');
        assert.match(
          failed?.fault.message,
          /Copying image .* failed: no space left on .*Free space there, then try again/,
        );
        assert.deepEqual(await readdir(join(lab.service.stateDirectory, 'cache/images')), []);
        assert.equal(await small.free(), free);
        await lab.expectTidy();
        await lab.delete(failed?.id);
        await small.empty();
        await lab.delete(await lab.createActive());
      });

      // From nothing at all to enough: whichever step meets the end, it is told alike.
      const everyRoom = [0, 4, 64, 512, 1024, 2048, 2500, 4096, 5000, 6144, 8192];
      for (const freeKib of isWhole ? everyRoom : imagesType === 'raw' ? [0, 2500] : [1024, 5000]) {
        it(`leaves nothing of a server that found ${freeKib} KiB free`, async () => {
          await small.leave(freeKib * 1024);
          const free = await small.free();
          const server = await lab.settled(await lab.create('three-disks', { config_drive: true }));
          if (server?.status === 'ERROR') {
            assert.match(server.fault.message, /failed: no space left on .*Free space there, then try again/);
            assert.equal(server.fault.code, 500);
          } else assert.ok(freeKib > 1024 && server?.status === 'ACTIVE', `it is ${server?.status}`);
          await lab.expectTidy();
          await lab.delete(server?.id);
          await lab.expectTidy();
          assert.equal(await small.free(), free);
          await small.empty();
        });
      }

      const noImage = 'lets a server of which no image can be made run on, and keeps nothing of the image';
      if (isWhole || imagesType === 'qcow2')
        it(noImage, async () => {
          const id = await lab.createActive();
          const [guest] = await lab.guests();
          for (const freeKib of isWhole ? [0, 1024, 2500, 4096] : [2500]) {
            await small.leave(freeKib * 1024);
            const free = await small.free();
            const server = await lab.actAndSettle(id, { createImage: { name: 'copy' } });
            assert.equal(server.status, 'ACTIVE');
            assert.match(server.fault?.message ?? '', /no space left on|is the host full\?|the image store is full/);
            assert.deepEqual(await lab.guests(), [guest], 'the guest was ended');
            assert.deepEqual((await lab.cloud.expect('image', 'GET', '/v2/images?name=copy')).images, []);
            await lab.expectTidy();
            assert.equal(await small.free(), free);
          }
          await small.empty();
          await lab.delete(id);
        });

      it('lets a server whose memory cannot be saved run on', async () => {
        const id = await lab.createActive();
        const [guest] = await lab.guests();
        for (const freeKib of isWhole ? [0, 1024, 2100] : [2100]) {
          await small.leave(freeKib * 1024);
          const free = await small.free();
          const server = await lab.actAndSettle(id, { suspend: null });
          assert.equal(server.status, 'ACTIVE');
          assert.match(server.fault?.message ?? '', /failed: no space left on .*Free space there, then try again/);
          assert.deepEqual(await lab.guests(), [guest], 'the guest was ended');
          await lab.expectTidy();
          assert.equal(await small.free(), free);
        }
        await small.empty();
        await lab.cloud.act(id, { suspend: null });
        await lab.cloud.waitForStatus(id, 'SUSPENDED');
        assert.equal((await lab.actAndSettle(id, { resume: null })).status, 'ACTIVE');
        await lab.delete(id);
        await lab.expectTidy();
      });
    });
  }
});

describe('a key or a disk that is not what it was', { timeout: 600_000 }, () => {
  for (const imagesType of isWhole ? (['raw', 'qcow2'] as const) : (['qcow2'] as const)) {
    describe(`(${imagesType})`, () => {
      let lab: TroubleLab;
      before(async () => {
        lab = await TroubleLab.open({ imagesType });
      });
      after(() => lab[Symbol.asyncDispose]());

      async function rootDisk(id: string): Promise<DiskSpec & { readonly secretId: string | null }> {
        const rows = await disksOf(lab.db, id as never);
        const row = rows.find(({ role }) => role === 'root');
        assert.ok(row);
        return asDisk(row);
      }
      async function media(id: string): Promise<string> {
        const folder = join(lab.service.stateDirectory, 'disks', id);
        const hash = createHash('sha256');
        for (const name of (await readdir(folder)).sort()) hash.update(await readFile(join(folder, name)));
        return hash.digest('hex');
      }
      async function createStopped(): Promise<string> {
        const id = await lab.createActive('tiny');
        assert.equal((await lab.actAndSettle(id, stop)).status, 'SHUTOFF');
        return id;
      }
      /** It fails alike every way it can be started; nothing is unlocked and nothing is changed by that. */
      async function expectStaysLocked(id: string, message: RegExp): Promise<void> {
        const unchanged = await media(id);
        for (const action of [start, { reboot: { type: 'HARD' } }, start]) {
          const server = await lab.actAndSettle(id, action);
          assert.equal(server.status, 'SHUTOFF');
          assert.match(server.fault?.message ?? '', message);
          assert.equal(await lab.leasesOf(id), 0);
          assert.equal(await media(id), unchanged, 'the disk was changed');
          await lab.expectTidy();
        }
      }

      it('stays locked under a key that does not open it', async () => {
        const id = await createStopped();
        const disk = await rootDisk(id);
        const secrets = () => lab.db.selectFrom('secrets').where('id', '=', disk.secretId as never);
        const kept = await secrets().selectAll().executeTakeFirstOrThrow();
        using root = await readRootKey(join(lab.service.stateDirectory, 'root.key'), {});
        using other = Secret.generate();
        const put = (columns: { nonce: Buffer; wrapped: Buffer }) =>
          lab.db.updateTable('secrets').set(columns).where('id', '=', kept.id).execute();
        await put(wrap(root.key, { id: kept.id, projectId: kept.project_id }, other));
        const told = new RegExp(
          `The key of disk ${disk.id} does not open it\\. The disk stays locked; nothing was changed`,
        );
        await expectStaysLocked(id, told);
        await put({ nonce: kept.nonce, wrapped: Buffer.from(kept.wrapped).reverse() });
        await expectStaysLocked(
          id,
          new RegExp(`stored key ${kept.id} cannot be unwrapped: its stored bytes were changed`),
        );
        await put(kept);
        assert.equal((await lab.actAndSettle(id, start)).status, 'ACTIVE');
        assert.equal((await lab.settled(id))?.fault, undefined);
        await lab.delete(id);
      });

      it('is not formatted again when its header is gone', async () => {
        const id = await createStopped();
        const disk = await rootDisk(id);
        const disksDirectory = join(lab.service.stateDirectory, 'disks') as never;
        const cacheDirectory = join(lab.service.stateDirectory, 'cache/storage') as never;
        const drivers = {
          raw: rawStorage({ disksDirectory }),
          qcow2: qcow2Storage({ disksDirectory, cacheDirectory }),
        };
        const header = await drivers[imagesType].headerRegion(disk);
        const bytes = await header.read(4096);
        await header.write([{ at: 0, bytes: Buffer.alloc(4096) }]);
        await expectStaysLocked(
          id,
          new RegExp(`Disk ${disk.id} has no readable LUKS header at .* not formatted again`),
        );
        await header.write([{ at: 0, bytes }]);
        assert.equal((await lab.actAndSettle(id, start)).status, 'ACTIVE');
        await lab.delete(id);
        await lab.expectTidy();
      });

      it('stops the service from starting when its root key was exchanged, and opens once it is back', async () => {
        const id = await createStopped();
        const file = join(lab.service.stateDirectory, 'root.key');
        const rootKey = await readFile(file);
        await lab.service.end('SIGTERM');
        await writeFile(file, Buffer.alloc(32, 7));
        await assert.rejects(lab.service.launch(), /secrets are stored under root key [0-9a-f]{16} and would not open/);
        await writeFile(file, rootKey);
        await lab.service.launch();
        await lab.relogin();
        assert.equal((await lab.actAndSettle(id, start)).status, 'ACTIVE');
        await lab.delete(id);
      });
    });
  }
});

describe('requests at the same time', { timeout: 600_000 }, () => {
  let lab: TroubleLab;
  before(async () => {
    lab = await TroubleLab.open({ imagesType: 'raw' });
  });
  after(() => lab[Symbol.asyncDispose]());

  const act = (action: JsonObject) => (id: string) =>
    lab.cloud.request('compute', 'POST', `/v2.1/servers/${id}/action`, { body: action });
  const remove = (id: string) => lab.cloud.request('compute', 'DELETE', `/v2.1/servers/${id}`);

  async function statuses(id: string, ...requests: ((id: string) => Promise<{ status: number }>)[]) {
    return (await Promise.all(requests.map((request) => request(id)))).map(({ status }) => status).sort();
  }

  it('of two stops, two starts, or a suspend and a soft reboot exactly one wins', async () => {
    const id = await lab.createActive();
    const pairs: [JsonObject, JsonObject][] = [
      [stop, stop],
      [start, start],
      [{ suspend: null }, { reboot: { type: 'SOFT' } }],
    ];
    for (const [one, other] of pairs) {
      assert.deepEqual(await statuses(id, act(one), act(other)), [202, 409]);
      await lab.settled(id);
      await lab.expectTidy();
    }
    await lab.delete(id);
  });

  it('of two deletes both are content, and a delete beats a stop', async () => {
    const first = await lab.createActive();
    const deleted = await statuses(first, remove, remove);
    assert.ok(
      deleted.every((status) => status === 204 || status === 404 || status === 409),
      `${deleted}`,
    );
    await lab.cloud.waitUntilGone(first);
    const second = await lab.createActive();
    const mixed = await statuses(second, act(stop), remove);
    assert.ok(mixed.includes(204) && mixed.every((status) => [202, 204, 404, 409].includes(status)), `${mixed}`);
    await lab.cloud.waitUntilGone(second);
    await lab.expectTidy();
    const destroyed = await lab.db
      .selectFrom('audit_records')
      .select('event')
      .where('event', '=', 'key-destroyed')
      .execute();
    const stored = await lab.db.selectFrom('audit_records').select('event').where('event', '=', 'key-stored').execute();
    assert.equal(destroyed.length, stored.length, 'a key was destroyed twice, or never');
  });

  it('deletes a server at any moment of its creation', async () => {
    const pauses = isWhole ? [0, 20, 50, 100, 150, 200, 300, 400, 600, 800] : [0, 100, 300];
    for (const pause of pauses) {
      const id = await lab.create('three-disks');
      await sleep(pause);
      await lab.delete(id);
      await lab.expectTidy();
    }
  });

  it('never gives the same room to two of twenty', async () => {
    const { vcpus } = await lab.db.selectFrom('hosts').selectAll().executeTakeFirstOrThrow();
    const ids = await Promise.all(Array.from({ length: 20 }, () => lab.create()));
    const servers = await Promise.all(ids.map((id) => lab.settled(id)));
    const active = servers.filter((server) => server?.status === 'ACTIVE');
    const failed = servers.filter((server) => server?.status === 'ERROR');
    assert.equal(active.length, Math.min(20, 4 * vcpus));
    assert.equal(active.length + failed.length, 20);
    for (const server of failed) assert.match(server?.fault.message, /No valid host was found\. .*virtual CPUs free/);
    await lab.expectTidy();
    await Promise.all(ids.map((id) => lab.delete(id)));
    await lab.expectTidy();
  });
});

describe('a part of the host that ends', { timeout: 600_000 }, () => {
  let lab: TroubleLab;
  before(async () => {
    lab = await TroubleLab.open({ imagesType: 'qcow2' });
  });
  after(() => lab[Symbol.asyncDispose]());

  async function pidOf(daemon: 'libvirtd' | 'virtlogd'): Promise<number> {
    return Number(await readFile(join(lab.service.stateDirectory, `run/lv/${daemon}.pid`), 'utf8').catch(() => '0'));
  }
  /** Kills a daemon of the service's own; on return another runs in its place. */
  async function replace(daemon: 'libvirtd' | 'virtlogd'): Promise<void> {
    const pid = await pidOf(daemon);
    assert.ok(pid > 1);
    process.kill(pid, 'SIGKILL');
    await waitUntil(`another ${daemon} runs`, async () => {
      const other = await pidOf(daemon);
      return other > 1 && other !== pid;
    });
  }

  it('QEMU: the server is SHUTOFF and locked within two seconds', async () => {
    const id = await lab.createActive();
    const [guest] = await lab.guests();
    assert.ok(guest);
    process.kill(guest, 'SIGKILL');
    await waitUntil('nothing is left unlocked', async () => (await lab.leasesOf(id)) === 0, 2000);
    assert.equal((await lab.settled(id))?.status, 'SHUTOFF');
    await lab.expectTidy();
    assert.equal((await lab.actAndSettle(id, start)).status, 'ACTIVE');
    await lab.delete(id);
  });

  it('libvirtd, while nothing happens: its guest runs on, is found again, and is followed', async () => {
    const id = await lab.createActive();
    const guests = await lab.guests();
    await replace('libvirtd');
    assert.equal((await lab.actAndSettle(id, { pause: null })).status, 'PAUSED');
    assert.equal((await lab.actAndSettle(id, { unpause: null })).status, 'ACTIVE');
    assert.deepEqual(await lab.guests(), guests);
    await lab.expectTidy();
    process.kill(guests[0] ?? 0, 'SIGKILL');
    await waitUntil('nothing is left unlocked', async () => (await lab.leasesOf(id)) === 0, 5000);
    assert.equal((await lab.settled(id))?.status, 'SHUTOFF');
    await lab.delete(id);
  });

  it('libvirtd and the guest, one right after the other: the end of the guest is not missed', async () => {
    const id = await lab.createActive();
    const [guest] = await lab.guests();
    process.kill(await pidOf('libvirtd'), 'SIGKILL');
    process.kill(guest ?? 0, 'SIGKILL');
    await waitUntil('nothing is left unlocked', async () => (await lab.leasesOf(id)) === 0, 30_000);
    assert.equal((await lab.settled(id))?.status, 'SHUTOFF');
    await lab.expectTidy();
    await lab.delete(id);
  });

  const moments = isWhole ? [0, 30, 60, 100, 150, 200, 250, 300, 400, 500, 700] : [150];
  for (const moment of moments) {
    it(`libvirtd, ${moment} ms into a creation, a stop, a start and a suspend: each ends well or with a fault`, async () => {
      const id = await lab.create('three-disks');
      await sleep(moment);
      await replace('libvirtd');
      const made = await lab.settled(id);
      await lab.expectTidySoon();
      if (made?.status === 'ERROR') assert.match(made.fault.message, /libvirt/);
      else assert.equal(made?.status, 'ACTIVE');
      if (made?.status === 'ACTIVE') {
        for (const [action, well, badly] of [
          [stop, 'SHUTOFF', 'ACTIVE'],
          [start, 'ACTIVE', 'SHUTOFF'],
          [{ suspend: null }, 'SUSPENDED', 'ACTIVE'],
          [{ resume: null }, 'ACTIVE', 'SUSPENDED'],
        ] as const) {
          const before = (await lab.settled(id))?.status;
          if (before !== badly) continue;
          await lab.cloud.act(id, action);
          await sleep(moment);
          await replace('libvirtd');
          const after = await lab.settled(id);
          if (after?.status === badly) assert.match(after.fault?.message ?? 'no fault', /libvirt/);
          else assert.equal(after?.status, well, after?.fault?.message);
          await lab.expectTidySoon();
        }
      }
      await lab.delete(id);
      await lab.expectTidySoon();
    });
  }

  it('virtlogd: it is there again for the next start, which goes on with the console log', async () => {
    const id = await lab.createActive();
    await replace('virtlogd');
    assert.equal((await lab.settled(id))?.status, 'ACTIVE');
    assert.equal((await lab.actAndSettle(id, { reboot: { type: 'HARD' } })).status, 'ACTIVE');
    const logged = async () => (await lab.cloud.consoleLog(id)).includes('READY');
    await waitUntil('the console log has the new boot', logged, 20_000);
    await lab.delete(id);
    await lab.expectTidy();
  });
});

describe('a host without cryptsetup', { timeout: 600_000 }, () => {
  /** Runs the rest in a mount namespace where the folder of system programs is links, of which any can go. */
  const script =
    'mount --bind /usr/sbin "$1" && mount -t tmpfs -o mode=755 links /usr/sbin && ln -s "$1"/* /usr/sbin/ && ' +
    '{ [ "$2" = whole ] || rm /usr/sbin/cryptsetup; } && shift 2 && exec "$@"';

  const folders: string[] = [];
  after(() => Promise.all(folders.map((folder) => rm(folder, { recursive: true }))));

  async function labWith(kind: 'whole' | 'lacking'): Promise<TroubleLab> {
    const folder = await mkdtemp('/var/tmp/nightlatch-test-');
    folders.push(folder);
    const wrapper = ['unshare', '--mount', '--propagation', 'slave', '--', '/bin/sh', '-c', script, 'sh', folder, kind];
    const prepare = async (state: string) => {
      // Mounted out here too, so that the sockets in it can be reached from here.
      await mkdir(join(state, 'run'), { recursive: true });
      command('mount', ['-t', 'tmpfs', 'nightlatch', join(state, 'run')]);
    };
    return await TroubleLab.open({ imagesType: 'raw', wrapper, prepare });
  }

  it('takes no encrypted servers, and says which trait it lacks', async () => {
    await using lab = await labWith('lacking');
    const hosts = await lab.db.selectFrom('hosts').selectAll().execute();
    assert.deepEqual(
      hosts.flatMap(({ traits }) => traits),
      [],
    );
    const server = await lab.settled(await lab.create());
    assert.equal(server?.status, 'ERROR');
    assert.match(
      server?.fault.message,
      /No valid host was found\. .*testhost lacks the trait COMPUTE_EPHEMERAL_ENCRYPTION, COMPUTE_EPHEMERAL_ENCRYPTION_LUKS/,
    );
    await lab.expectTidy();
    await lab.delete(server?.id);
  });

  it('that had it at its start names it and its package', async () => {
    await using lab = await labWith('whole');
    const id = await lab.createActive();
    const inside = ['--target', String(lab.service.pid), '--mount', '--', 'rm', '/usr/sbin/cryptsetup'];
    await run('nsenter', inside, { doing: 'Removing cryptsetup' });
    const failed = await lab.settled(await lab.create());
    assert.equal(failed?.status, 'ERROR');
    assert.match(
      failed?.fault.message,
      /needs the program cryptsetup, which is not installed\. Install the Debian package cryptsetup-bin/,
    );
    await lab.expectTidy();
    const suspended = await lab.actAndSettle(id, { suspend: null });
    assert.equal(suspended.status, 'ACTIVE');
    assert.match(suspended.fault?.message ?? '', /needs the program cryptsetup/);
    await lab.expectTidy();
    // What needs no new header still works.
    assert.equal((await lab.actAndSettle(id, stop)).status, 'SHUTOFF');
    assert.equal((await lab.actAndSettle(id, start)).status, 'ACTIVE');
    for (const one of [id, failed?.id]) await lab.delete(one);
    await lab.expectTidy();
  });
});
