import assert from 'node:assert/strict';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { CloudClient, JsonObject } from '#cli/cloud/client.ts';
import { connectPool, type Database, openDatabase } from '#db/database.ts';
import { bootSector } from '#test/support/boot-sector.ts';
import { guestsOf } from '#test/support/destroy-state.ts';
import { formatUnderTest, type ServiceOptions, TestService } from '#test/support/service.ts';
import { findStrays } from '#test/support/strays.ts';
import { waitUntil } from '#test/support/wait.ts';

const LOOK_TIMEOUT_MS = 20_000;

const SETTLE_TIMEOUT_MS = 120_000;
/** Flavors of the lab: an encrypted root disk alone, and one with an ephemeral and a swap disk too. */
export type FlavorName = 'tiny' | 'three-disks';

/** The service with an image that boots at once and flavors for encrypted servers, to be put into trouble. */
export class TroubleLab implements AsyncDisposable {
  readonly service: TestService;
  cloud: CloudClient;
  readonly db: Database;
  readonly image: string;

  private constructor(service: TestService, cloud: CloudClient, db: Database, image: string) {
    this.service = service;
    this.cloud = cloud;
    this.db = db;
    this.image = image;
  }

  static async open(options: ServiceOptions): Promise<TroubleLab> {
    await using undo = new AsyncDisposableStack();
    const service = undo.use(await TestService.start({ shutdownTimeout: 1, ...options }));
    const cloud = await service.client();
    const host = join(service.stateDirectory, 'postgresql');
    const db = openDatabase(connectPool({ host, user: 'nightlatch', database: 'nightlatch' }));
    undo.defer(() => db.destroy());
    const lab = new TroubleLab(
      service,
      cloud,
      db,
      (await imageNamed(cloud, 'boot')) ?? (await addBootImage(service, cloud)),
    );
    if ((await cloud.request('compute', 'GET', '/v2.1/flavors/tiny')).status === 404) {
      await lab.#addFlavor('tiny', {});
      await lab.#addFlavor('three-disks', { 'OS-FLV-EXT-DATA:ephemeral': 1, swap: 8 });
    }
    const owned = undo.move();
    lab.#close = () => owned.disposeAsync();
    return lab;
  }

  #close: () => Promise<void> = async () => {};

  async #addFlavor(id: FlavorName, disks: object): Promise<void> {
    const flavor = { id, name: id, ram: 64, vcpus: 1, disk: 1, ...disks };
    await this.cloud.expect('compute', 'POST', '/v2.1/flavors', { body: { flavor } });
    const extra_specs = { 'hw:ephemeral_encryption': 'true', 'hw:ephemeral_encryption_format': formatUnderTest };
    await this.cloud.expect('compute', 'POST', `/v2.1/flavors/${id}/os-extra_specs`, { body: { extra_specs } });
  }

  /** For after a new start of the service, which may serve elsewhere. */
  async relogin(): Promise<void> {
    this.cloud = await this.service.client();
  }

  /** Asks for an encrypted server; returns its id at once. */
  async create(flavor: FlavorName = 'tiny', more: object = {}): Promise<string> {
    const server = { name: 'x', imageRef: this.image, flavorRef: flavor, networks: 'none', ...more };
    return (await this.cloud.expect('compute', 'POST', '/v2.1/servers', { body: { server } })).server.id;
  }

  async createActive(flavor: FlavorName = 'tiny'): Promise<string> {
    const id = await this.create(flavor);
    await this.cloud.waitForStatus(id, 'ACTIVE');
    return id;
  }

  /** Waits until no operation is under way on a server; returns it as a client sees it, null when it is gone. */
  async settled(id: string): Promise<JsonObject | null> {
    let server: JsonObject | null = null;
    await waitUntil(
      `server ${id} is idle`,
      async () => {
        const { status, body } = await this.cloud.request('compute', 'GET', `/v2.1/servers/${id}`);
        server = status === 404 ? null : body.server;
        return server === null || (server['OS-EXT-STS:task_state'] === null && server.status !== 'BUILD');
      },
      SETTLE_TIMEOUT_MS,
    );
    return server;
  }

  /** Asks for an action; returns the server once it is idle again. */
  async actAndSettle(id: string, action: JsonObject): Promise<JsonObject> {
    await this.cloud.act(id, action);
    const server = await this.settled(id);
    assert.ok(server, 'the server is gone');
    return server;
  }

  async delete(id: string): Promise<void> {
    await this.cloud.expect('compute', 'DELETE', `/v2.1/servers/${id}`);
    await this.cloud.waitUntilGone(id);
  }

  /** Leases that are open on a server's disks. */
  async leasesOf(id: string): Promise<number> {
    const disks = this.db
      .selectFrom('disks')
      .select('id')
      .where('owner_id', '=', id as never);
    const open = this.db.selectFrom('leases').select('id').where('closed_at', 'is', null);
    return (await open.where('disk_id', 'in', disks).execute()).length;
  }

  /** QEMU processes of the service. */
  guests(): Promise<number[]> {
    return guestsOf(this.service.stateDirectory);
  }

  async expectTidy(): Promise<void> {
    assert.deepEqual(await findStrays(this.service), []);
  }

  /**
   * As `expectTidy`, once libvirt was lost: a guest that ended while it was away may be shown as running for a moment
   * after it is back, and its end told by the next look of the service, ten seconds later at most.
   */
  async expectTidySoon(): Promise<void> {
    const deadline = Date.now() + LOOK_TIMEOUT_MS;
    while ((await findStrays(this.service)).length > 0 && Date.now() < deadline) await sleep(200);
    await this.expectTidy();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#close();
  }
}

async function addBootImage(service: TestService, cloud: CloudClient): Promise<string> {
  const file = join(service.directory, 'boot.raw');
  await writeFile(file, Buffer.concat([bootSector(), Buffer.alloc(1024 * 1024 - 512)]));
  return await cloud.uploadImage('boot', file, 'raw');
}

/** The image that an earlier lab with the same home uploaded; null: there is none. */
export async function imageNamed(cloud: CloudClient, name: string): Promise<string | null> {
  const { images } = await cloud.expect('image', 'GET', `/v2/images?name=${name}`);
  return images[0]?.id ?? null;
}
