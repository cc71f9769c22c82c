import assert from 'node:assert/strict';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { CloudClient } from '#cli/cloud/client.ts';
import { GuestConsole } from '#cli/cloud/guest-console.ts';
import { expectBooted } from '#test/support/boot-guest.ts';
import { bootSector } from '#test/support/boot-sector.ts';
import { formatUnderTest, type ServiceOptions, TestService } from '#test/support/service.ts';
import { findStrays } from '#test/support/strays.ts';

/** The service with a small image and a flavor for encrypted servers, to be killed at crash points. */
export class CrashLab implements AsyncDisposable {
  readonly service: TestService;
  cloud: CloudClient;
  #spare: string | null = null;
  readonly #flavor: string;
  readonly #image: string;

  private constructor(service: TestService, cloud: CloudClient, flavor: string, image: string) {
    this.service = service;
    this.cloud = cloud;
    this.#flavor = flavor;
    this.#image = image;
  }

  static async open(options: ServiceOptions = {}): Promise<CrashLab> {
    const service = await TestService.start({ shutdownTimeout: 5, ...options });
    const cloud = await service.client();
    const disk = join(service.directory, 'boot.raw');
    await writeFile(disk, Buffer.concat([bootSector(), Buffer.alloc(1024 * 1024 - 512)]));
    const image = await cloud.uploadImage('boot', disk, 'raw');
    const lab = new CrashLab(service, cloud, 'tiny', image);
    // Its root disk is as large as the image, so that little is copied when it is resized; where each disk takes seconds,
    // it gets its swap by being resized.
    const isSlow = service.imagesType === 'lvm';
    await lab.#addFlavor('tiny', { disk: 0, swap: isSlow ? 0 : 8 });
    await lab.#addFlavor('larger', { disk: 1, swap: isSlow ? 8 : 16 });
    return lab;
  }

  async #addFlavor(id: 'tiny' | 'larger', disks: object): Promise<void> {
    const flavor = { id, name: id, ram: 64, vcpus: 1, ...disks };
    await this.cloud.expect('compute', 'POST', '/v2.1/flavors', { body: { flavor } });
    const extra_specs = { 'hw:ephemeral_encryption': 'true', 'hw:ephemeral_encryption_format': formatUnderTest };
    await this.cloud.expect('compute', 'POST', `/v2.1/flavors/${id}/os-extra_specs`, { body: { extra_specs } });
  }

  /** Where the service keeps the bytes of the image. */
  get imageFile(): string {
    return join(this.service.stateDirectory, 'images', this.#image);
  }

  /** Asks for an encrypted server; returns its id at once. */
  async create(name: string, imageRef = this.#image): Promise<string> {
    const server = { name, imageRef, flavorRef: this.#flavor, networks: 'none', config_drive: true };
    return (await this.cloud.expect('compute', 'POST', '/v2.1/servers', { body: { server } })).server.id;
  }

  /** An encrypted server that is up: one that was given back, or a fresh one. */
  async take(name: string): Promise<string> {
    const id = this.#spare ?? (await this.create(name));
    this.#spare = null;
    await this.cloud.waitForStatus(id, 'ACTIVE');
    return id;
  }

  /** Ends the use of a server that is active and as it was made. Where making one takes long, the next test has it. */
  async giveBack(id: string): Promise<void> {
    if (this.service.imagesType === 'lvm') this.#spare = id;
    else await this.remove(id);
  }

  /** Kills the service at the point while it serves the request, and starts it again. */
  async crashAt(point: string, request: () => Promise<unknown>): Promise<void> {
    await this.service.crashAt(point, request);
    this.cloud = await this.service.client();
  }

  async expectNoStrays(): Promise<void> {
    assert.deepEqual(await findStrays(this.service), []);
  }

  async remove(id: string): Promise<void> {
    await this.cloud.expect('compute', 'DELETE', `/v2.1/servers/${id}`);
    await this.cloud.waitUntilGone(id);
    await this.expectNoStrays();
  }

  /** As `expectBooted` for any guest of the boot sector. */
  expectBooted(id: string): Promise<string> {
    return expectBooted(this.cloud, id);
  }

  /** The guest goes on counting from where its memory was: nobody has restarted it. */
  async expectLetter(id: string, letter: string): Promise<void> {
    using guest = await GuestConsole.open(await this.cloud.serialConsoleUrl(id));
    const [answered] = await guest.exchange('n', /[a-z]/);
    assert.equal(answered, letter, 'the memory of the guest is another');
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.service[Symbol.asyncDispose]();
  }
}
