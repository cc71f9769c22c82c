import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { CloudClient, JsonObject } from '#cli/cloud/client.ts';
import { GuestConsole } from '#cli/cloud/guest-console.ts';
import { type Disk, diskRoles } from '#core/disk.ts';
import type { HostPath, ServerId } from '#core/ids.ts';
import { connectPool, type Database, openDatabase } from '#db/database.ts';
import { asDisk, disksOf } from '#db/disks.ts';
import { run } from '#host/exec.ts';
import { diskFile } from '#host/storage/disk-file.ts';
import { bootSector } from '#test/support/boot-sector.ts';
import { type ServiceOptions, TestService } from '#test/support/service.ts';
import { lookAtVolume } from '#test/support/volume-group.ts';

type Strings = Readonly<Record<string, string>>;
export type FlavorSizes = {
  readonly ram?: number;
  readonly disk?: number;
  readonly ephemeral?: number;
  readonly swap?: number;
};

/** What a disk's file is, by what is in it. */
export type DiskFacts = {
  readonly role: Disk['role'];
  readonly standing: Disk['standing'];
  readonly secretId: Disk['secretId'];
  readonly path: HostPath;
  /** `luks` for a raw disk that is encrypted, `qcow2+luks` for a qcow2 one; of a volume, what its first bytes say. */
  readonly format: string;
  readonly sizeBytes: number;
  readonly backingFile: string | null;
};

/** The service with flavors, images and servers as a test wants them, and a look at what lies on the host. */
export class ServerLab implements AsyncDisposable {
  readonly service: TestService;
  cloud: CloudClient;
  readonly db: Database;
  #count = 0;

  private constructor(service: TestService, cloud: CloudClient, db: Database) {
    this.service = service;
    this.cloud = cloud;
    this.db = db;
  }

  static async open(options: ServiceOptions = {}): Promise<ServerLab> {
    const service = await TestService.start(options);
    const address = { host: join(service.stateDirectory, 'postgresql'), user: 'nightlatch', database: 'nightlatch' };
    return new ServerLab(service, await service.client(), openDatabase(connectPool(address)));
  }

  async addFlavor(extraSpecs: Strings, sizes: FlavorSizes = {}): Promise<string> {
    const flavor = { name: `flavor ${++this.#count}`, vcpus: 1, ram: 64, disk: 1, ephemeral: 1, swap: 16 };
    const { ephemeral, ...rest } = { ...flavor, ...sizes };
    const body = { flavor: { ...rest, 'OS-FLV-EXT-DATA:ephemeral': ephemeral } };
    const { id } = (await this.cloud.expect('compute', 'POST', '/v2.1/flavors', { body })).flavor;
    const specs = { body: { extra_specs: extraSpecs } };
    if (Object.keys(extraSpecs).length > 0)
      await this.cloud.expect('compute', 'POST', `/v2.1/flavors/${id}/os-extra_specs`, specs);
    return id;
  }

  /** An image of 1 MiB that boots into `bootSector`. */
  async addBootImage(properties: Strings = {}): Promise<string> {
    const file = join(this.service.directory, 'boot.raw');
    await writeFile(file, Buffer.concat([bootSector(), Buffer.alloc(1024 * 1024 - 512)]));
    return await this.cloud.uploadImage(`image ${++this.#count}`, file, 'raw', properties);
  }

  /** Asks for a server; returns whatever is answered. */
  async ask(flavorRef: string, imageRef: string, more: JsonObject = {}): Promise<{ status: number; body: JsonObject }> {
    const server = { name: 'web', imageRef, flavorRef, networks: 'none', config_drive: true, ...more };
    return await this.cloud.request('compute', 'POST', '/v2.1/servers', { body: { server } });
  }

  /** A server that is up. @throws when it is refused or ends in ERROR. */
  async create(flavorRef: string, imageRef: string, more: JsonObject = {}): Promise<string> {
    const { status, body } = await this.ask(flavorRef, imageRef, more);
    if (status !== 202) throw new Error(`creating a server answered ${status}: ${JSON.stringify(body)}`);
    await this.cloud.waitForStatus(body.server.id, 'ACTIVE');
    return body.server.id;
  }

  /** The next letter of a guest of the boot sector that has been up for a while. */
  async answer(id: string): Promise<string> {
    using guest = await GuestConsole.open(await this.cloud.serialConsoleUrl(id));
    return (await guest.exchange('n', /[a-z]/))[0];
  }

  async delete(id: string): Promise<void> {
    await this.cloud.expect('compute', 'DELETE', `/v2.1/servers/${id}`);
    await this.cloud.waitUntilGone(id);
  }

  /** A server's disks as its guest sees them, each looked at where it lies. */
  async disksOf(id: string): Promise<DiskFacts[]> {
    const disks = (await disksOf(this.db, id as ServerId)).map(asDisk);
    disks.sort((a, b) => diskRoles.indexOf(a.role) - diskRoles.indexOf(b.role));
    return await Promise.all(disks.map((disk) => this.#lookAt(disk)));
  }

  async #lookAt(disk: Disk): Promise<DiskFacts> {
    const { role, standing, secretId } = disk;
    if (disk.storage === 'lvm') return { role, standing, secretId, backingFile: null, ...(await lookAtVolume(disk)) };
    const path = diskFile(join(this.service.stateDirectory, 'disks'), disk);
    // -U: the guest that runs holds the lock.
    const { stdout } = await run('qemu-img', ['info', '-U', '--output=json', path], { doing: `Looking at ${path}` });
    const info = JSON.parse(stdout);
    const inner = info['format-specific']?.data?.encrypt?.format;
    return {
      role,
      standing,
      secretId,
      path,
      format: inner === undefined ? info.format : `${info.format}+${inner}`,
      sizeBytes: info['virtual-size'],
      backingFile: info['backing-filename'] ?? null,
    };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.db.destroy();
    await this.service[Symbol.asyncDispose]();
  }
}
