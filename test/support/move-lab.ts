import assert from 'node:assert/strict';
import type { JsonObject } from '#cli/cloud/client.ts';
import type { SecretId } from '#core/ids.ts';
import { CloudShell, shellUserData } from '#test/support/cloud-shell.ts';
import { testGuestImage } from '#test/support/guest-image.ts';
import { GuestWriter } from '#test/support/guest-writer.ts';
import type { ServiceOptions } from '#test/support/service.ts';
import { findStrays } from '#test/support/strays.ts';
import { VolumesAndServers } from '#test/support/volumes-and-servers.ts';
import { waitUntil } from '#test/support/wait.ts';

const ENDED_MS = 300_000;
const GOES_ON_MS = 60_000;
export const KIB_OF_NOISE = 16 * 1024;

/** What tells that a volume is what it was, or that it is not. */
export type VolumeFacts = { readonly secret: SecretId | null; readonly medium: string; readonly type: string };

/** A guest that writes to a volume all the time, whose data is moved. */
export class MoveLab implements AsyncDisposable {
  readonly lab: VolumesAndServers;
  readonly server: string;
  readonly volume: string;
  readonly writer: GuestWriter;
  #guest: CloudShell;
  /** How often its guest has booted. */
  boots = 1;

  private constructor(lab: VolumesAndServers, server: string, volume: string, guest: CloudShell) {
    this.lab = lab;
    this.server = server;
    this.volume = volume;
    this.#guest = guest;
    this.writer = new GuestWriter({ run: (command) => this.#guest.run(command) }, volume);
  }

  /** `addTypes` makes what the volume's type `type` is, and the host where the service has none. `word`: see `GuestWriter`. */
  static async open(
    options: ServiceOptions,
    type: string,
    addTypes: (lab: VolumesAndServers) => Promise<void>,
    word: string | null = null,
  ): Promise<MoveLab> {
    await using undo = new AsyncDisposableStack();
    const lab = undo.use(await VolumesAndServers.open({ imagesType: 'qcow2', shutdownTimeout: 5, ...options }));
    await addTypes(lab);
    const image = await lab.servers.cloud.uploadImage('guest', (await testGuestImage()).path, 'raw');
    const flavor = await lab.servers.addFlavor({}, { ram: 128, ephemeral: 0, swap: 0 });
    const server = await lab.servers.create(flavor, image, { user_data: shellUserData });
    const volume = await lab.addVolume({ name: 'data', volume_type: type });
    await lab.attach(server, volume);
    const guest = await CloudShell.open(() => lab.servers.cloud, server);
    const made = new MoveLab(lab, server, volume, guest);
    await made.writer.start(KIB_OF_NOISE, word);
    undo.move();
    return made;
  }

  run(command: string): Promise<string> {
    return this.#guest.run(command);
  }

  /** Starts the server, which is off, and waits for its guest; the writer writes no more. */
  async boot(): Promise<void> {
    await this.lab.servers.cloud.act(this.server, { 'os-start': null });
    await this.rebooted();
  }

  /** Waits until its guest, which was ended or reset, has booted once more. */
  async rebooted(): Promise<void> {
    this.#guest = await CloudShell.open(() => this.lab.servers.cloud, this.server, ++this.boots);
  }

  act(action: JsonObject, volume = this.volume): Promise<JsonObject> {
    return this.lab.must('POST', `/volumes/${volume}/action`, action);
  }

  /** Begins to give the volume another volume key, at most so many MiB per second; 0: as fast as it goes. */
  rekey(bandwidth = 0, volume = this.volume): Promise<JsonObject> {
    return this.act({ 'nightlatch:rekey': { volume_key: true, bandwidth } }, volume);
  }

  /** From now on it is moved as fast as it goes. QEMU holds back for holes too. */
  async hurry(volume = this.volume): Promise<void> {
    const action = { 'nightlatch:set_migration_bandwidth': { bandwidth: 0 } };
    await this.lab.ask('POST', `/volumes/${volume}/action`, action);
  }

  async migration(volume = this.volume): Promise<JsonObject> {
    return (await this.lab.must('GET', `/volumes/${volume}/migration`)).migration;
  }

  /** Waits until something is copied. */
  async begun(volume = this.volume, bytes = 0): Promise<void> {
    const isBegun = async () => (await this.migration(volume)).disk_processed_bytes > bytes;
    await waitUntil(`more than ${bytes} bytes are copied`, isBegun, ENDED_MS);
  }

  /** Waits until the move has ended, whatever became of it. */
  async ended(volume = this.volume): Promise<JsonObject> {
    const status = async () => (await this.migration(volume)).status;
    const hasEnded = async () => !/accepted|running|cancelling|completing/.test(await status());
    await waitUntil('the move has ended', hasEnded, ENDED_MS);
    return await this.migration(volume);
  }

  async facts(volume = this.volume): Promise<VolumeFacts> {
    const { volume_type: type } = await this.lab.show('volume', volume);
    return { secret: await this.lab.secretOf(volume), medium: await this.lab.mediumOf(volume), type };
  }

  async goesOn(): Promise<void> {
    const before = await this.writer.count();
    await waitUntil('the guest goes on writing', async () => (await this.writer.count()) > before + 3, GOES_ON_MS);
  }

  async noStrays(): Promise<void> {
    assert.deepEqual(await findStrays(this.lab.servers.service, this.lab.hostDirectory), []);
  }

  /** The move came to nothing: the guest goes on with the volume that it had, and nothing else is left. */
  async expectAsBefore(before: VolumeFacts, status = 'in-use'): Promise<void> {
    await this.lab.reach('volume', this.volume, status);
    assert.deepEqual(await this.facts(), before);
    await this.goesOn();
    await this.noStrays();
  }

  /** It has another disk, which its secret opens; nothing of the one before is left. */
  async expectMoved(before: VolumeFacts, status = 'in-use', volume = this.volume): Promise<void> {
    const { status: is, reason } = await this.ended(volume);
    assert.deepEqual([is, reason], ['completed', null]);
    await this.lab.reach('volume', volume, status);
    const { secret, medium } = await this.facts(volume);
    assert.notEqual(medium, before.medium);
    assert.ok(secret !== before.secret && secret !== null);
    assert.equal(await this.lab.opens(secret, await this.lab.fileOf(volume)), true);
    await this.noStrays();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.lab[Symbol.asyncDispose]();
  }
}
