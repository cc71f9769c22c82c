import assert from 'node:assert/strict';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { GuestConsole } from '#cli/cloud/guest-console.ts';
import type { InnerCrashPoint } from '#core/crash-point.ts';
import type { EncryptionFormat } from '#core/encryption-intent.ts';
import { MIB } from '#core/sizes.ts';
import { expectBooted } from '#test/support/boot-guest.ts';
import { bootSector } from '#test/support/boot-sector.ts';
import { command } from '#test/support/command.ts';
import type { ServiceOptions } from '#test/support/service.ts';
import { imageNamed, TroubleLab } from '#test/support/trouble-lab.ts';
import { cryptMappings, deviceHolds, diskKeysInKeyrings, diskVolumes } from '#test/support/volume-group.ts';
import { isByKernel } from '#test/support/volume-strays.ts';

/** What is on each disk of a server of the lab, in clear, within its first bytes. */
const MARKERS: Readonly<Record<string, string>> = {
  root: 'MARKER-OF-THE-IMAGE',
  ephemeral: 'ephemeral0',
  swap: 'SWAPSPACE2',
  // The name of its file system.
  'config-drive': 'config-2',
  memory: 'LibvirtQemud',
};
const MARKED_BYTES = 64 * MIB;
const VOLUME_NAMES = ['disk', 'disk.config', 'disk.eph0', 'disk.swap'];

/** The whole service on logical volumes, and a look at them, at device-mapper and at the kernel's keys from outside. */
export class VolumeLab implements AsyncDisposable {
  readonly lab: TroubleLab;
  readonly #image: string;
  readonly #flavors = new Set<string>();

  private constructor(lab: TroubleLab, image: string) {
    this.lab = lab;
    this.#image = image;
  }

  static async open(options: ServiceOptions = {}): Promise<VolumeLab> {
    await using undo = new AsyncDisposableStack();
    const lab = undo.use(await TroubleLab.open({ imagesType: 'lvm', ...options }));
    const made = new VolumeLab(lab, (await imageNamed(lab.cloud, 'marked')) ?? (await addMarkedImage(lab)));
    undo.move();
    return made;
  }

  /** A server whose disks are encrypted in this format, its guest up; with a disk of every kind, or a root disk alone. */
  async create(format: EncryptionFormat, disks: 'all' | 'root' = 'all'): Promise<string> {
    const id = await this.ask(format, disks);
    await this.reach(id, 'ACTIVE');
    return id;
  }

  /** As `create`, and does not wait for it. */
  async ask(format: EncryptionFormat, disks: 'all' | 'root'): Promise<string> {
    const { cloud } = this.lab;
    const flavor = `${format}-${disks}`;
    if (!this.#flavors.has(flavor)) await this.#addFlavor(flavor, format, disks);
    const wanted = { imageRef: this.#image, flavorRef: flavor, networks: 'none', config_drive: disks === 'all' };
    const body = { server: { name: flavor, ...wanted } };
    return (await cloud.expect('compute', 'POST', '/v2.1/servers', { body })).server.id;
  }

  async #addFlavor(id: string, format: EncryptionFormat, disks: 'all' | 'root'): Promise<void> {
    // A root disk alone is as large as its image: making an image of it takes no time and no room.
    const sizes = disks === 'all' ? { disk: 1, 'OS-FLV-EXT-DATA:ephemeral': 1, swap: 8 } : { disk: 0 };
    const flavor = { id, name: id, ram: 64, vcpus: 1, ...sizes };
    await this.lab.cloud.expect('compute', 'POST', '/v2.1/flavors', { body: { flavor } });
    const extra_specs = { 'hw:ephemeral_encryption': 'true', 'hw:ephemeral_encryption_format': format };
    await this.lab.cloud.expect('compute', 'POST', `/v2.1/flavors/${id}/os-extra_specs`, { body: { extra_specs } });
    this.#flavors.add(id);
  }

  async act(id: string, action: object, status: string): Promise<void> {
    await this.lab.cloud.act(id, action);
    await this.reach(id, status);
  }

  /** Waits until nothing is done to the server any more and it has this status. */
  async reach(id: string, status: string): Promise<void> {
    await this.lab.cloud.waitForStatus(id, status);
  }

  /** Kills the service, and whatever `meanwhile` does is done before it is started again. */
  async restartService(meanwhile: () => Promise<void> = async () => {}): Promise<void> {
    await this.lab.service.end('SIGKILL');
    await meanwhile();
    await this.lab.service.launch();
    await this.lab.relogin();
  }

  /** Kills the service at the point while it serves the request, and starts it again. */
  async crashAt(point: InnerCrashPoint, request: () => Promise<unknown>): Promise<void> {
    await this.lab.service.crashAt(point, request);
    await this.lab.relogin();
  }

  async killGuest(): Promise<void> {
    const [pid, ...more] = await this.lab.guests();
    assert.ok(pid !== undefined && more.length === 0, 'one guest runs');
    process.kill(pid, 'SIGKILL');
  }

  /** While `work` runs, no guest can start: QEMU has nowhere to put its serial console. */
  async withoutConsoles(work: () => Promise<void>): Promise<void> {
    const folder = join(this.lab.service.stateDirectory, 'run/tty');
    command('mount', ['-t', 'tmpfs', '-o', 'ro', 'none', folder]);
    try {
      await work();
    } finally {
      command('umount', [folder]);
    }
  }

  /** Sends a letter to the guest of the boot sector and does not wait for an answer. */
  async press(id: string, letter: string): Promise<void> {
    using guest = await GuestConsole.open(await this.lab.cloud.serialConsoleUrl(id));
    await guest.exchange(letter, /./, 300).catch(() => {});
  }

  expectBooted(id: string): Promise<string> {
    return expectBooted(this.lab.cloud, id);
  }

  /** The guest goes on counting from where its memory was. */
  async expectLetter(id: string, letter: string): Promise<void> {
    using guest = await GuestConsole.open(await this.lab.cloud.serialConsoleUrl(id));
    const [answered] = await guest.exchange('n', /[a-z]/);
    assert.equal(answered, letter, 'the memory of the guest is another');
  }

  /** The volumes of a server, by the names that an operator sees, without its id. */
  async volumeNames(id: string): Promise<string[]> {
    const volumes = await diskVolumes();
    return volumes.flatMap(({ name }) => (name.startsWith(`${id}_`) ? [name.slice(id.length + 1)] : [])).sort();
  }

  /** The disks that the kernel decrypts are open, under leases, and show their markers; the volumes below show none. */
  async expectOpen(id: string): Promise<void> {
    const disks = (await this.#disks(id)).filter(isByKernel);
    const open = (await cryptMappings()).map(({ name }) => name).filter((name) => name.startsWith(`nl-${id}-`));
    assert.deepEqual(open.sort(), disks.map((disk) => `nl-${id}-${disk.id}`).sort());
    for (const disk of disks) {
      const marker = MARKERS[disk.role] ?? '';
      const shows = await deviceHolds(`/dev/mapper/nl-${id}-${disk.id}`, [marker], MARKED_BYTES);
      assert.ok(shows, `the open ${disk.role} disk does not show ${marker}: the search finds nothing`);
    }
    await this.lab.expectTidy();
    await this.expectCiphertext(id);
  }

  /** Nothing of the server is open, nobody has a key of it, and its volumes are ciphertext. */
  async expectLocked(id: string, names: readonly string[] = VOLUME_NAMES): Promise<void> {
    await this.lab.expectTidy();
    assert.deepEqual(await cryptMappings(), [], 'no mapping is open on the whole host');
    assert.deepEqual(await diskKeysInKeyrings(), []);
    assert.deepEqual(await this.lab.guests(), []);
    assert.deepEqual(await this.volumeNames(id), [...names].sort());
    await this.expectCiphertext(id);
  }

  expectCiphertext(id: string): Promise<void> {
    return expectCiphertext((name) => name.startsWith(`${id}_`));
  }

  #disks(id: string) {
    const own = this.lab.db
      .selectFrom('disks')
      .selectAll()
      .where('owner_id', '=', id as never);
    return own.where('state', '=', 'formatted').where('role', '!=', 'memory').execute();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.lab[Symbol.asyncDispose]();
  }
}

async function addMarkedImage({ service, cloud }: TroubleLab): Promise<string> {
  const file = join(service.directory, 'marked.raw');
  const image = Buffer.alloc(MIB);
  bootSector().copy(image);
  image.write(MARKERS.root ?? '', 4096);
  await writeFile(file, image);
  return await cloud.uploadImage('marked', file, 'raw');
}

/** No disk volume with such a name shows what a disk of the lab holds. */
export async function expectCiphertext(isMeant: (name: string) => boolean): Promise<void> {
  for (const { name, path } of (await diskVolumes()).filter((volume) => isMeant(volume.name))) {
    const shows = await deviceHolds(path, Object.values(MARKERS), MARKED_BYTES);
    assert.equal(shows, false, `the volume ${name} shows what its disk holds`);
  }
}
