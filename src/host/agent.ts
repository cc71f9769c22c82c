import { readdir } from 'node:fs/promises';
import { connect } from 'node:net';
import type { Duplex, Readable } from 'node:stream';
import { crashPoint } from '#core/crash-point.ts';
import type { DiskContent, DiskSpec, HeaderBackup } from '#core/disk.ts';
import { NightlatchError } from '#core/errors.ts';
import { type DiskId, type ImageId, isUuid, type SecretId, type ServerId } from '#core/ids.ts';
import type { Secret } from '#core/secret.ts';
import { describeHost } from '#host/describe-host.ts';
import { DiskAccess } from '#host/disk-access.ts';
import { DiskMaker } from '#host/disk-maker.ts';
import { DiskMirrors } from '#host/disk-mirrors.ts';
import { domainDisk, domainKeys, namedDisks } from '#host/domain-disks.ts';
import type { Mapping } from '#host/encryption/dm-crypt/mappings.ts';
import { ignoring, removeFolderIfEmpty } from '#host/files.ts';
import { GuestDisks } from '#host/guest-disks.ts';
import { GuestPower } from '#host/guest-power.ts';
import type {
  AttachedVolume,
  CopyProgress,
  DiskKeys,
  HostAgent,
  HostEvent,
  HostFacts,
  HostGuest,
  HostInventory,
  ImageBytes,
  KeyChange,
  MirroredDisk,
  MirrorState,
  ServerSpec,
} from '#host/host-agent.ts';
import type { HostParts } from '#host/host-parts.ts';
import { lockEverything } from '#host/lock-down.ts';
import { readMedium } from '#host/medium-bytes.ts';
import { PausedGuests } from '#host/paused-guests.ts';
import { clearScratch } from '#host/scratch.ts';
import type { StorageDriver } from '#host/storage/storage-driver.ts';

/** The agent of the machine it runs on. */
export class LocalHostAgent implements HostAgent {
  readonly #parts: HostParts;
  readonly #disks: DiskAccess;
  readonly #maker: DiskMaker;
  readonly #guests: GuestDisks;
  readonly #mirrors: DiskMirrors;
  readonly #power: GuestPower;
  readonly #paused: PausedGuests;

  constructor(parts: HostParts) {
    this.#parts = parts;
    this.#disks = new DiskAccess(parts);
    this.#maker = new DiskMaker({ ...parts, disks: this.#disks });
    this.#guests = new GuestDisks({ ...parts, disks: this.#disks });
    this.#mirrors = new DiskMirrors({ ...parts, disks: this.#disks, maker: this.#maker });
    const guestParts = { ...parts, disks: this.#disks, guests: this.#guests, mirrors: this.#mirrors };
    this.#power = new GuestPower(guestParts);
    this.#paused = new PausedGuests(guestParts);
  }

  /** Does ahead of time what the first server on this host would otherwise wait for. *Repeat*: fine. */
  async prepare(): Promise<void> {
    await this.#servers().prepare?.();
    for (const { driver } of this.#parts.backends) await driver.prepare?.();
  }

  describe(): Promise<HostFacts> {
    return describeHost(this.#parts, this.#disks);
  }

  cacheImage(imageId: ImageId, bytes: ImageBytes): Promise<void> {
    return this.#parts.images.bring(imageId, bytes);
  }

  async pruneImages(keep: ReadonlySet<ImageId>): Promise<void> {
    await this.#parts.images.prune(keep);
    const drivers = [...Object.values(this.#parts.drivers), ...this.#parts.backends.map(({ driver }) => driver)];
    for (const driver of drivers) await driver.pruneImages?.(keep);
  }

  createDisk(disk: DiskSpec, content: DiskContent, keys: DiskKeys): Promise<void> {
    return this.#parts.gate.admit(`Creating disk ${disk.id}`, () => this.#maker.make(disk, content, keys));
  }

  async paceCopy(disk: DiskSpec, bytesPerSecond: number): Promise<CopyProgress | null> {
    return this.#maker.paceCopy(disk, bytesPerSecond);
  }

  copyRunningDisk(server: ServerSpec, from: DiskSpec, disk: DiskSpec, keys: DiskKeys): Promise<void> {
    return this.#parts.gate.admit(`Copying disk ${from.id}`, () => this.#copyRunning(server, from, disk, keys));
  }

  async #copyRunning(server: ServerSpec, from: DiskSpec, disk: DiskSpec, keys: DiskKeys): Promise<void> {
    const { hypervisor } = this.#parts;
    const target = namedDisks(server).find(({ disk: { id } }) => id === from.id)?.target;
    if (target === undefined) throw new Error(`disk ${from.id} is no disk of server ${server.id}`);
    // A crash may have left one going, with the key of the disk that is now made anew.
    await hypervisor.endCopy(server.id, target);
    await this.#maker.make(disk, { kind: 'blank' }, keys);
    const isDevice = this.#disks.isDevice(disk);
    try {
      const device = isDevice ? await this.#disks.unlockDevice(disk, keys) : null;
      const attachment = device ?? this.#disks.driver(disk).attachment(disk);
      const copy = domainDisk({ disk, target }, attachment, isDevice);
      await hypervisor.copyDisk(server.id, target, copy, domainKeys(isDevice ? [] : [disk], keys));
      await this.#disks.flush(disk);
    } finally {
      await this.#disks.lock(disk);
    }
  }

  mirrorDisk(serverId: ServerId, disks: MirroredDisk, keys: DiskKeys, bytesPerSecond: number): Promise<void> {
    const doing = `Mirroring disk ${disks.from.id}`;
    return this.#parts.gate.admit(doing, () => this.#mirrors.begin(serverId, disks, keys, bytesPerSecond));
  }

  mirrorState(serverId: ServerId, disks: MirroredDisk): Promise<MirrorState> {
    return this.#mirrors.state(serverId, disks);
  }

  setMirrorSpeed(serverId: ServerId, disks: MirroredDisk, bytesPerSecond: number): Promise<void> {
    return this.#mirrors.setSpeed(serverId, disks, bytesPerSecond);
  }

  switchToMirror(serverId: ServerId, disks: MirroredDisk): Promise<void> {
    return this.#mirrors.switch(serverId, disks);
  }

  endMirror(serverId: ServerId, disks: MirroredDisk): Promise<void> {
    return this.#mirrors.end(serverId, disks);
  }

  openMedium(disk: DiskSpec): Promise<Readable> {
    return readMedium(this.#disks.driver(disk).attachment(disk));
  }

  rekeyDisk(disk: DiskSpec, keys: KeyChange, toId: SecretId): Promise<void> {
    return this.#parts.gate.admit(`Rekeying disk ${disk.id}`, () => this.#disks.rekey(disk, keys, toId));
  }

  headerBackups(disk: DiskSpec): Promise<readonly HeaderBackup[]> {
    return this.#disks.headerBackups(disk);
  }

  async restoreHeader(disk: DiskSpec, version: number | null, keys: DiskKeys): Promise<void> {
    const doing = `Restoring the header of disk ${disk.id}`;
    await this.#parts.gate.admit(doing, async () => {
      await this.#guests.checkClosed(disk, doing);
      await this.#disks.restoreHeader(disk, version, keys);
    });
  }

  forgetHeaders(disk: DiskSpec): Promise<void> {
    return this.#disks.forgetHeaders(disk, disk.secretId);
  }

  growDisk(disk: DiskSpec, hadBytes: number, keys: DiskKeys, server: ServerId | null): Promise<void> {
    return this.#parts.gate.admit(`Growing disk ${disk.id}`, () => this.#guests.grow(disk, hadBytes, keys, server));
  }

  attachVolume(server: ServerSpec, volume: AttachedVolume, keys: DiskKeys): Promise<void> {
    const doing = `Attaching volume ${volume.disk.ownerId}`;
    return this.#parts.gate.admit(doing, () => this.#guests.attach(server, volume, keys));
  }

  detachVolume(serverId: ServerId, volume: AttachedVolume): Promise<void> {
    return this.#guests.detach(serverId, volume);
  }

  async destroyDisk(disk: DiskSpec): Promise<void> {
    await this.#maker.endCopy(disk);
    await this.#disks.lock(disk);
    await this.#disks.forgetHeaders(disk, null);
    crashPoint('agent.destroy-disk.backups-destroyed');
    if (disk.encryption !== null) await this.#disks.destroyHeader(disk);
    crashPoint('agent.destroy-disk.header-destroyed');
    await this.#disks.driver(disk).delete(disk);
  }

  startServer(server: ServerSpec, keys: DiskKeys): Promise<void> {
    return this.#power.start(server, keys);
  }

  stopServer(serverId: ServerId, disks: readonly DiskSpec[], gracefulMs: number): Promise<void> {
    return this.#power.stop(serverId, disks, gracefulMs);
  }

  suspendServer(serverId: ServerId, memory: DiskSpec, memoryKey: Secret | null): Promise<void> {
    return this.#power.suspend(serverId, memory, memoryKey);
  }

  restoreServer(server: ServerSpec, memory: DiskSpec, keys: DiskKeys): Promise<void> {
    return this.#power.restore(server, memory, keys);
  }

  pauseServer(serverId: ServerId, disks: readonly DiskSpec[]): Promise<void> {
    return this.#paused.pause(serverId, disks);
  }

  lockPaused(serverId: ServerId, disks: readonly DiskSpec[]): Promise<readonly DiskId[]> {
    return this.#paused.lock(serverId, disks);
  }

  lockedWhilePaused(serverId: ServerId): Promise<readonly DiskId[]> {
    return this.#paused.locked(serverId);
  }

  unlockPaused(disks: readonly DiskSpec[], keys: DiskKeys): Promise<void> {
    return this.#paused.unlock(disks, keys);
  }

  unpauseServer(serverId: ServerId): Promise<void> {
    return this.#paused.unpause(serverId);
  }

  consoleLog(serverId: ServerId, bytes: number): Promise<Buffer> {
    return this.#parts.hypervisor.consoleLog(serverId, bytes);
  }

  async openConsole(serverId: ServerId): Promise<Duplex> {
    const { promise, resolve, reject } = Promise.withResolvers<Duplex>();
    const socket = connect(this.#parts.hypervisor.consoleSocket(serverId));
    socket.once('connect', () => resolve(socket));
    socket.once('error', (error) => {
      const doing = `Opening the serial console of server ${serverId}`;
      reject(new NightlatchError('hypervisor-failed', { doing, reason: 'the guest does not run' }, { cause: error }));
    });
    return await promise;
  }

  async forgetServer(serverId: ServerId): Promise<void> {
    await this.#parts.hypervisor.forgetConsole(serverId);
    await removeFolderIfEmpty(`${this.#parts.disksDirectory}/${serverId}`);
  }

  async guests(): Promise<readonly HostGuest[]> {
    const domains = await this.#parts.hypervisor.domains();
    return domains.flatMap(({ serverId, state }) => (state === 'absent' ? [] : [{ id: serverId, state }]));
  }

  async inventory(): Promise<HostInventory> {
    const { hypervisor, exports, mappings, disksDirectory } = this.#parts;
    const [servers, exported, mapped, libvirtSecrets, folders] = await Promise.all([
      this.guests(),
      exports.exported(),
      mappings?.list() ?? [],
      hypervisor.secrets(),
      readdir(disksDirectory).catch((error: unknown) => ignoring('ENOENT')(error) ?? []),
    ]);
    const unlockedDisks = [...exported, ...mapped.map(({ diskId }) => diskId)];
    const elsewhere = await Promise.all(Object.values(this.#parts.drivers).map((driver) => driver.servers?.() ?? []));
    const serversWithDisks = [...new Set([...folders.filter(isUuid), ...elsewhere.flat()])] as ServerId[];
    return { servers, unlockedDisks, libvirtSecrets, serversWithDisks };
  }

  async lockStrays(): Promise<void> {
    const { hypervisor, exports, mappings, runDirectory } = this.#parts;
    await hypervisor.forgetSecrets();
    for (const diskId of await exports.exported()) await exports.withdraw(diskId);
    const domains = (await hypervisor.domains()).filter(({ state }) => state !== 'absent');
    // What a running guest has open stays so; what nobody has open, such as a saved memory, is no guest's.
    const inUse = mappings === null ? null : await this.#guests.pathsInUse(domains.map(({ serverId }) => serverId));
    const opened = await mappings?.opened();
    const isStray = ({ name }: Mapping) => !opened?.has(name) || !inUse?.has(mappings?.pathOf(name) ?? '');
    await mappings?.closeEach('Locking strays', isStray);
    await clearScratch(runDirectory);
  }

  async lockDown(): Promise<void> {
    const { name, gate, disksDirectory, backends, volumeGroups, pools, runDirectory } = this.#parts;
    const backendDirectories = backends.flatMap(({ directory }) => (directory === null ? [] : [directory]));
    await gate.close();
    this.#maker.endCopies();
    await lockEverything(
      name,
      { ...this.#parts, places: { disksDirectory, backendDirectories, volumeGroups, pools } },
      () => gate.inside,
    );
    await clearScratch(runDirectory);
  }

  liftLockDown(): Promise<void> {
    return this.#parts.gate.open();
  }

  isLockedDown(): Promise<boolean> {
    return this.#parts.gate.isClosed();
  }

  onEvent(listener: (event: HostEvent) => void): () => void {
    return this.#parts.hypervisor.onEvent((event) => {
      if (event.kind === 'reconnected') listener({ kind: 'look-again' });
      // A saved guest was ended by the suspend that asked for it.
      else if (event.why !== 'saved') listener({ kind: 'server-ended', serverId: event.serverId });
    });
  }

  /** What keeps new disks of servers. */
  #servers(): StorageDriver {
    return this.#disks.driver({ backend: null, storage: this.#parts.storage });
  }
}
