import assert from 'node:assert/strict';
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { copyFile, mkdir, mkdtemp, open, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { buildGuestImage, type GuestImage } from '#cli/guest-image/guest-image.ts';
import {
  type MarkerReport,
  markerPlaces,
  markerScript,
  markersFor,
  readMarkerReport,
} from '#cli/guest-image/guest-script.ts';
import { SerialConsole } from '#cli/guest-image/serial-console.ts';
import { run, start } from '#host/exec.ts';
import { command } from '#test/support/command.ts';

const MIB = 1024 * 1024;
const BOOT_MS = 120_000;
const INSTANCE = '5a9c1f0e-27a4-4c4c-8b1c-7f2c9c2f3d10';
const ANSWER_MS = 30_000;
const DISK_MARKERS = ['root', 'ephemeral', 'swap'] as const;
const all = (state: 'found' | 'lost') => Object.fromEntries(markerPlaces.map((place) => [place, state]));

let folder: string;
let image: GuestImage;

before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'nightlatch-guest-image-'));
  image = await buildGuestImage({ cacheDirectory: join(folder, 'images') });
});
after(() => rm(folder, { recursive: true, force: true }));

type Machine = 'q35' | 'pc';
type DriveKind = 'virtio' | 'ide-cd' | 'scsi-cd' | 'none';

/** A running guest and the two sockets by which one speaks with it. */
class Guest implements AsyncDisposable {
  readonly process: ChildProcess;
  readonly console: SerialConsole;
  readonly #ended: Promise<unknown>;

  private constructor(process: ChildProcess, console: SerialConsole) {
    this.process = process;
    this.console = console;
    this.#ended = once(process, 'close');
  }

  static async boot(args: readonly string[]): Promise<Guest> {
    const socket = join(folder, 'serial.sock');
    await rm(socket, { force: true });
    const own = ['-accel', 'tcg', '-m', '128', '-nodefaults', '-display', 'none', '-vga', 'none', '-no-user-config'];
    const serial = ['-chardev', `socket,id=serial,path=${socket},server=on,wait=on`, '-serial', 'chardev:serial'];
    const monitor = ['-qmp', `unix:${join(folder, 'qmp.sock')},server=on,wait=off`];
    const process = start('qemu-system-x86_64', [...own, ...serial, ...monitor, ...args], {});
    process.stderr?.resume();
    return new Guest(process, await SerialConsole.open(socket, 10_000));
  }

  /** Until QEMU ended by itself. */
  async end(): Promise<void> {
    const deadline = AbortSignal.timeout(ANSWER_MS);
    await Promise.race([this.#ended, once(deadline, 'abort')]);
    assert.equal(this.process.exitCode, 0, 'QEMU did not end by itself');
  }

  async pressPowerButton(): Promise<void> {
    using monitor = await this.#monitor();
    await monitor.ask('{"execute":"system_powerdown"}', /"return"/, 5_000);
  }

  /** Saves the memory, in clear, and stops the guest. */
  async saveMemory(path: string): Promise<void> {
    using monitor = await this.#monitor();
    const capabilities = { capabilities: [{ capability: 'events', state: true }] };
    await monitor.ask(
      JSON.stringify({ execute: 'migrate-set-capabilities', arguments: capabilities }),
      /"return"/,
      5_000,
    );
    const target = { uri: `exec:cat >${path}` };
    await monitor.ask(JSON.stringify({ execute: 'migrate', arguments: target }), /"status": "completed"/, ANSWER_MS);
    await monitor.ask('{"execute":"quit"}', /"return"/, 5_000);
    await this.end();
  }

  /** Until the guest's instructions run. What is typed while memory is still being read in would be lost. */
  async running(): Promise<void> {
    using monitor = await this.#monitor();
    const deadline = Date.now() + ANSWER_MS;
    for (;;) {
      const [line] = await monitor.ask('{"execute":"query-status"}', /"return".*/, 5_000);
      if (line.includes('"running": true')) return;
      assert.ok(Date.now() < deadline, line);
      await delay(20);
    }
  }

  async #monitor(): Promise<SerialConsole> {
    const monitor = await SerialConsole.open(join(folder, 'qmp.sock'), 5_000);
    await monitor.ask('{"execute":"qmp_capabilities"}', /"return"/, 5_000);
    return monitor;
  }

  async markers(): Promise<MarkerReport> {
    const [line] = await this.console.ask('NL markers', /NIGHTLATCH markers .*/, ANSWER_MS);
    const report = readMarkerReport(line);
    assert.ok(report, line);
    return report;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.console[Symbol.dispose]();
    if (this.process.exitCode !== null || this.process.signalCode !== null) return;
    this.process.kill('SIGKILL');
    await this.#ended;
  }
}

/** A server's disks as Nightlatch makes them, but in clear, in a folder of their own. */
async function makeServer(name: string, userData: string, options: { format?: 'raw' | 'qcow2'; vfat?: boolean } = {}) {
  const home = join(folder, name);
  await mkdir(join(home, 'drive/openstack/latest'), { recursive: true });
  const paths = {
    root: join(home, 'root'),
    ephemeral: join(home, 'ephemeral'),
    swap: join(home, 'swap'),
    drive: join(home, 'config'),
  };
  const format = options.format ?? 'raw';
  if (format === 'raw') await copyFile(image.path, paths.root);
  else await run('qemu-img', ['convert', '-O', 'qcow2', image.path, paths.root], { doing: 'Making the root disk' });
  await makeBlank(paths.ephemeral, 16 * MIB);
  command('mkfs.ext4', ['-q', '-F', '-L', 'ephemeral0', paths.ephemeral]);
  await makeBlank(paths.swap, 8 * MIB);
  command('mkswap', [paths.swap]);
  await writeMetadata(join(home, 'drive'), { uuid: INSTANCE, hostname: `${name}.example` });
  await writeFile(join(home, 'drive/openstack/latest/user_data'), userData);
  if (options.vfat) await makeFatDrive(paths.drive, join(home, 'drive/openstack'));
  else await makeIsoDrive(paths.drive, join(home, 'drive'));
  return { paths, format };
}

async function writeMetadata(drive: string, metadata: { uuid: string; hostname: string }): Promise<void> {
  const whole = { meta: { purpose: 'test' }, name: 'test', public_keys: {}, ...metadata, launch_index: 0 };
  await writeFile(join(drive, 'openstack/latest/meta_data.json'), JSON.stringify(whole));
}

async function makeBlank(path: string, sizeBytes: number): Promise<void> {
  await using file = await open(path, 'wx');
  await file.truncate(sizeBytes);
}

async function makeFatDrive(path: string, content: string): Promise<void> {
  await makeBlank(path, 64 * MIB);
  await run('mformat', ['-i', path, '-v', 'config-2', '::'], { doing: 'Making the config drive' });
  await run('mcopy', ['-i', path, '-s', content, '::/'], { doing: 'Making the config drive' });
}

async function makeIsoDrive(path: string, content: string): Promise<void> {
  await rm(path, { force: true });
  await run('xorrisofs', ['-quiet', '-J', '-r', '-V', 'config-2', '-o', path, content], {
    doing: 'Making the config drive',
  });
}

type Server = Awaited<ReturnType<typeof makeServer>>;

function qemuArguments({ paths, format }: Server, machine: Machine = 'q35', drive: DriveKind = 'virtio'): string[] {
  const disk = (id: string, path: string, kind: string) => [
    ...['-drive', `if=none,id=${id},file=${path},format=${kind},cache=unsafe`],
    ...['-device', `virtio-blk-pci,drive=${id},serial=${id}-serial`],
  ];
  const configDrive = {
    virtio: disk('config', paths.drive, 'raw'),
    'ide-cd': ['-drive', `if=none,id=cd,file=${paths.drive},format=raw,readonly=on`, '-device', 'ide-cd,drive=cd'],
    'scsi-cd': [
      ...['-device', 'virtio-scsi-pci', '-drive', `if=none,id=cd,file=${paths.drive},format=raw,readonly=on`],
      ...['-device', 'scsi-cd,drive=cd'],
    ],
    none: [],
  }[drive];
  const disks = [
    ...disk('root', paths.root, format),
    ...disk('ephemeral', paths.ephemeral, 'raw'),
    ...disk('swap', paths.swap, 'raw'),
  ];
  return ['-machine', machine, ...disks, ...configDrive];
}

describe('the guest image', { timeout: 900_000 }, () => {
  test('is built once, then found at once, and fits 64 MiB', async (t) => {
    assert.ok(image.sizeBytes <= 64 * MIB);
    const { ino } = await stat(image.path);
    const begin = performance.now();
    const again = await buildGuestImage({
      cacheDirectory: join(folder, 'images'),
      progress: (line) => assert.fail(`built again: ${line}`),
    });
    t.diagnostic(`found again in ${Math.round(performance.now() - begin)} ms`);
    assert.deepEqual(again, image);
    assert.equal((await stat(again.path)).ino, ino);
  });

  test('keeps its markers over power off, the power button, a crash and a pulled plug', async (t) => {
    const markers = markersFor('nl-test-4711');
    const server = await makeServer('keeper', markerScript({ markers }));
    const begin = performance.now();
    {
      await using guest = await Guest.boot(qemuArguments(server));
      const [, boot] = await guest.console.waitFor(/NIGHTLATCH boot (\S+)/, BOOT_MS);
      t.diagnostic(`first NIGHTLATCH line after ${Math.round(performance.now() - begin)} ms`);
      for (const place of markerPlaces)
        await guest.console.waitFor(new RegExp(`NIGHTLATCH ${place} written`), ANSWER_MS);
      await guest.console.waitFor(new RegExp(`NIGHTLATCH listening ${boot}`), ANSWER_MS);
      await guest.console.ask('NL echo hello', /^NIGHTLATCH echo hello$/m, ANSWER_MS);
      const sizes = await guest.console.ask('NL size', /(NIGHTLATCH size vd\S \d+\n)+NIGHTLATCH size done/, ANSWER_MS);
      assert.match(sizes[0], new RegExp(`size vda ${image.sizeBytes}\n`));
      assert.match(sizes[0], new RegExp(`size vdb ${16 * MIB}\n`));
      assert.match(sizes[0], new RegExp(`size vdc ${8 * MIB}\n`));
      assert.deepEqual(await guest.markers(), { bootId: boot, states: all('found') });
      await guest.console.ask('NL memory', new RegExp(`NIGHTLATCH memory kept ${boot}`), ANSWER_MS);
      const asked = performance.now();
      guest.console.send('NL poweroff');
      await guest.end();
      t.diagnostic(`ended ${Math.round(performance.now() - asked)} ms after NL poweroff`);
    }
    for (const disk of DISK_MARKERS) {
      const medium = await readFile(server.paths[disk]);
      for (const place of markerPlaces)
        assert.equal(medium.includes(markers[place]), place === disk, `${place} marker on ${disk}`);
    }
    {
      await using guest = await Guest.boot(qemuArguments(server));
      const [, boot] = await guest.console.waitFor(/NIGHTLATCH boot (\S+)/, BOOT_MS);
      for (const disk of DISK_MARKERS) await guest.console.waitFor(new RegExp(`NIGHTLATCH ${disk} found`), ANSWER_MS);
      await guest.console.waitFor(/NIGHTLATCH listening/, ANSWER_MS);
      await guest.console.ask('NL crash', /NIGHTLATCH crash/, ANSWER_MS);
      const [, rebooted] = await guest.console.waitFor(/NIGHTLATCH boot (\S+)/, BOOT_MS);
      assert.notEqual(rebooted, boot);
      await guest.console.waitFor(/NIGHTLATCH listening/, ANSWER_MS);
    } // Here the plug is pulled.
    {
      await using guest = await Guest.boot(qemuArguments(server, 'pc', 'ide-cd'));
      await guest.console.waitFor(/NIGHTLATCH listening (\S+)/, BOOT_MS);
      const { states } = await guest.markers();
      assert.deepEqual(states, all('found'));
      const pressed = performance.now();
      await guest.pressPowerButton();
      await guest.end();
      t.diagnostic(`ended ${Math.round(performance.now() - pressed)} ms after the power button`);
    }
  });

  test('goes on with the same boot from saved memory, in which its marker is found', async () => {
    const markers = markersFor('nl-test-4713');
    const server = await makeServer('sleeper', markerScript({ markers }));
    const memory = join(folder, 'sleeper/memory');
    let boot: string | undefined;
    {
      await using guest = await Guest.boot(qemuArguments(server));
      boot = (await guest.console.waitFor(/NIGHTLATCH listening (\S+)/, BOOT_MS))[1];
      await guest.saveMemory(memory);
    }
    assert.ok((await readFile(memory)).includes(markers.memory));
    await using guest = await Guest.boot([...qemuArguments(server), '-incoming', `exec:cat ${memory}`]);
    await guest.running();
    await guest.console.ask('NL memory', new RegExp(`NIGHTLATCH memory kept ${boot}$`, 'm'), ANSWER_MS);
    assert.deepEqual((await guest.markers()).states, all('found'));
  });

  test('says that a marker is lost when the medium no longer holds it', async () => {
    const server = await makeServer('loser', markerScript({ markers: markersFor('nl-test-4712') }), {
      format: 'qcow2',
    });
    await using guest = await Guest.boot(qemuArguments(server));
    await guest.console.waitFor(/NIGHTLATCH listening/, BOOT_MS);
    await using swap = await open(server.paths.swap, 'r+');
    await swap.write(Buffer.alloc(512), 0, 512, 64 * 1024);
    const { states } = await guest.markers();
    assert.deepEqual(states, { ...all('found'), swap: 'lost' });
  });

  test('runs a script with #! once per instance, from a FAT or a SCSI config drive, and knows its name', async () => {
    const script = `#!/bin/sh
echo run >>/root/runs
sync
echo "run $(wc -l </root/runs) on $(hostname) as $INSTANCE_ID, $(cat /sys/block/vdc/serial)"
`;
    const server = await makeServer('once', script, { vfat: true });
    const drive = join(folder, 'once/drive');
    {
      await using guest = await Guest.boot(qemuArguments(server));
      await guest.console.waitFor(new RegExp(`run 1 on once\\.example as ${INSTANCE}, swap-serial`), BOOT_MS);
      await guest.pressPowerButton();
      await guest.end();
    }
    await makeIsoDrive(server.paths.drive, drive);
    {
      await using guest = await Guest.boot(qemuArguments(server, 'q35', 'scsi-cd'));
      await guest.console.waitFor(/nightlatch-guest: user data has run before on this instance/, BOOT_MS);
      await guest.console.waitFor(/nightlatch-guest: ready/, ANSWER_MS);
      await guest.pressPowerButton();
      await guest.end();
    }
    const other = INSTANCE.replace('5a9c', '0000');
    await writeMetadata(drive, { uuid: other, hostname: 'twin.example' });
    await makeIsoDrive(server.paths.drive, drive);
    await using guest = await Guest.boot(qemuArguments(server));
    await guest.console.waitFor(new RegExp(`run 2 on twin\\.example as ${other}`), BOOT_MS);
  });

  test('powers off and says why when its root file system is gone', async () => {
    const server = await makeServer('headless', '');
    await using root = await open(server.paths.root, 'r+');
    await root.write(Buffer.alloc(4096), 0, 4096, 21 * MIB);
    await using guest = await Guest.boot(qemuArguments(server));
    await guest.console.waitFor(/nightlatch-guest: no root file system found/, BOOT_MS);
    await guest.end();
  });

  test('stays up without a config drive and says so', async (t) => {
    const server = await makeServer('bare', '');
    const begin = performance.now();
    await using guest = await Guest.boot(qemuArguments(server, 'pc', 'none'));
    await guest.console.waitFor(/nightlatch-guest: no config drive found\nnightlatch-guest: ready/, BOOT_MS);
    t.diagnostic(`ready after ${Math.round(performance.now() - begin)} ms`);
    await guest.pressPowerButton();
    await guest.end();
  });
});
