import { readdir, readFile, statfs } from 'node:fs/promises';
import { connect } from 'node:net';
import { cpus, totalmem } from 'node:os';
import type { Duplex, Readable } from 'node:stream';
import { crashPoint } from '#core/crash-point.ts';
import type { DiskContent, DiskSpec, HeaderBackup } from '#core/disk.ts';
import { type EncryptionFormat, formatTrait } from '#core/encryption-intent.ts';
import { NightlatchError } from '#core/errors.ts';
import {
  type DiskId,
  type HostName,
  type HostPath,
  type ImageId,
  isUuid,
  type SecretId,
  type ServerId,
} from '#core/ids.ts';
import type { Secret } from '#core/secret.ts';
import { GIB, MIB } from '#core/sizes.ts';
import { DiskAccess, type DiskParts, needKey } from '#host/disk-access.ts';
import { DiskMaker } from '#host/disk-maker.ts';
import { DiskMirrors } from '#host/disk-mirrors.ts';
import { domainDisk, domainKeys, namedDisks } from '#host/domain-disks.ts';
import type { Mapping } from '#host/encryption/dm-crypt/mappings.ts';
import { ignoring, removeFolderIfEmpty, syncFile } from '#host/files.ts';
import { GuestDisks } from '#host/guest-disks.ts';
import type {
  AttachedVolume,
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
import type { DomainKey, DomainSpec, Hypervisor } from '#host/hypervisor/hypervisor.ts';
import type { ImageCache } from '#host/image-cache.ts';
import { lockEverything } from '#host/lock-down.ts';
import { readMedium } from '#host/medium-bytes.ts';
import { workingFormats } from '#host/probe-formats.ts';
import { isCompleteSave } from '#host/saved-memory.ts';
import { clearScratch } from '#host/scratch.ts';
import type { StorageDriver } from '#host/storage/storage-driver.ts';
import { TriedFormats } from '#host/tried-formats.ts';
import { describeBackends } from '#host/volume-backends.ts';

/** What a host agent is made of; `main` chooses the parts. */
export type HostParts = DiskParts & {
  readonly name: HostName;
  readonly virtType: 'kvm' | 'qemu';
  /** How new disks are stored. */
  readonly storage: DiskSpec['storage'];
  readonly defaultEncryptionFormat: EncryptionFormat;
  readonly undecidedEncryptionFormat: EncryptionFormat | null;
  readonly disksDirectory: HostPath;
  readonly runDirectory: HostPath;
  /** Whether keys leave the kernel while their guest is paused. */
  readonly lockOnPause: boolean;
  readonly images: ImageCache;
  readonly hypervisor: Hypervisor;
  /** The volume groups in which disks may be logical volumes. */
  readonly volumeGroups: readonly string[];
  /** All that is configured about how disks are stored and encrypted, as text: another text is another host. */
  readonly storageSettings: string;
};

/** See random(4). */
const BOOT_ID_FILE = '/proc/sys/kernel/random/boot_id';

/** The agent of the machine it runs on. */
export class LocalHostAgent implements HostAgent {
  readonly #parts: HostParts;
  readonly #disks: DiskAccess;
  readonly #maker: DiskMaker;
  readonly #guests: GuestDisks;
  readonly #mirrors: DiskMirrors;

  constructor(parts: HostParts) {
    this.#parts = parts;
    this.#disks = new DiskAccess(parts);
    this.#maker = new DiskMaker({ ...parts, disks: this.#disks });
    this.#guests = new GuestDisks({ ...parts, disks: this.#disks });
    this.#mirrors = new DiskMirrors({ ...parts, disks: this.#disks, maker: this.#maker });
  }

  /** Does ahead of time what the first server on this host would otherwise wait for. *Repeat*: fine. */
  async prepare(): Promise<void> {
    await this.#servers().prepare?.();
    for (const { driver } of this.#parts.backends) await driver.prepare?.();
  }

  async describe(): Promise<HostFacts> {
    const { name, virtType, storage, disksDirectory, runDirectory, storageSettings } = this.#parts;
    const { defaultEncryptionFormat, undecidedEncryptionFormat } = this.#parts;
    const capacityBytes = await this.#servers().capacityBytes?.();
    const { blocks, bsize } = await statfs(disksDirectory);
    const encryptorFor: DiskAccess['encryptorFor'] = (driver, format) => this.#disks.encryptorFor(driver, format);
    const own = this.#servers();
    const tried = (place: string) => TriedFormats.in(runDirectory, storageSettings, place);
    const { able, problems } = await workingFormats(storage, own, encryptorFor, await tried('servers'));
    const volumes = await describeBackends(this.#parts.backends, encryptorFor, tried);
    return {
      name,
      traits: able.length === 0 ? [] : ['COMPUTE_EPHEMERAL_ENCRYPTION', ...able.map(formatTrait)],
      problems: [...problems, ...volumes.problems],
      vcpus: cpus().length,
      memoryMib: Math.floor(totalmem() / MIB),
      diskGib: Math.floor((capacityBytes ?? blocks * bsize) / GIB),
      virtType,
      storage,
      defaultEncryptionFormat,
      undecidedEncryptionFormat,
      volumeBackends: volumes.volumeBackends,
      bootId: (await readFile(BOOT_ID_FILE, 'utf8')).trim(),
    };
  }

  cacheImage(imageId: ImageId, bytes: ImageBytes): Promise<void> {
    return this.#parts.images.bring(imageId, bytes);
  }

  pruneImages(keep: ReadonlySet<ImageId>): Promise<void> {
    return this.#parts.images.prune(keep);
  }

  createDisk(disk: DiskSpec, content: DiskContent, keys: DiskKeys): Promise<void> {
    return this.#parts.gate.admit(`Creating disk ${disk.id}`, () => this.#maker.make(disk, content, keys));
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
      await syncFile(attachment.path);
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
    await this.#disks.lock(disk);
    await this.#disks.forgetHeaders(disk, null);
    crashPoint('agent.destroy-disk.backups-destroyed');
    if (disk.encryption !== null) await this.#disks.destroyHeader(disk);
    crashPoint('agent.destroy-disk.header-destroyed');
    await this.#disks.driver(disk).delete(disk);
  }

  async startServer(server: ServerSpec, keys: DiskKeys): Promise<void> {
    const { hypervisor } = this.#parts;
    if ((await hypervisor.state(server.id)) !== 'absent') return;
    await Promise.all(namedDisks(server).map(({ disk }) => this.#disks.checkHeader(disk)));
    await this.#withGuestDisks(server, keys, (domain, domainKeys) => hypervisor.start(domain, domainKeys));
    crashPoint('agent.start-server.started');
  }

  async stopServer(serverId: ServerId, disks: readonly DiskSpec[], gracefulMs: number): Promise<void> {
    const { hypervisor } = this.#parts;
    const ended = gracefulMs > 0 && (await hypervisor.shutdown(serverId, gracefulMs));
    if (!ended) {
      // QEMU flushes when it is told to end, and would wait for ever.
      const isOurs = ({ ownerId, diskId }: Mapping) => ownerId === serverId || disks.some(({ id }) => id === diskId);
      await this.#parts.mappings?.failSuspended(`Ending server ${serverId}`, isOurs);
      await hypervisor.destroy(serverId);
    }
    crashPoint('agent.stop-server.ended');
    for (const disk of disks) await this.#disks.lock(disk);
    await this.#closeMappings('Locking server', ({ ownerId }) => ownerId === serverId);
  }

  async suspendServer(serverId: ServerId, memory: DiskSpec, memoryKey: Secret | null): Promise<void> {
    const { hypervisor } = this.#parts;
    await this.#disks.withPlaintext(memory, memoryKey, async (path) => {
      if ((await hypervisor.state(serverId)) !== 'absent') {
        await this.#mirrors.endAll(serverId);
        await hypervisor.save(serverId, path);
        crashPoint('agent.suspend-server.saved');
        return;
      }
      if (await isCompleteSave(path)) return;
      const reason = 'the guest ended by itself before its memory was saved';
      throw new NightlatchError('hypervisor-failed', { doing: `Suspending server ${serverId}`, reason });
    });
  }

  async restoreServer(server: ServerSpec, memory: DiskSpec, keys: DiskKeys): Promise<void> {
    const { hypervisor } = this.#parts;
    if ((await hypervisor.state(server.id)) !== 'absent') return await this.#disks.lock(memory);
    await this.#disks.withPlaintext(memory, keys.get(memory.id) ?? null, async (path) => {
      if (!(await isCompleteSave(path))) {
        const reason = 'its saved memory is incomplete';
        throw new NightlatchError('saved-memory-unreadable', { server: server.id, reason });
      }
      await this.#withGuestDisks(server, keys, (domain, domainKeys) => hypervisor.restore(domain, path, domainKeys));
      crashPoint('agent.restore-server.restored');
    });
  }

  async pauseServer(serverId: ServerId, disks: readonly DiskSpec[]): Promise<void> {
    const keeping = this.#parts.lockOnPause
      ? disks.find((disk) => this.#encrypts(disk) && !this.#suspends(disk))
      : null;
    if (keeping) throw new NightlatchError('pause-keeps-key', { server: serverId, disk: keeping.id });
    if (this.#parts.lockOnPause) await this.#mirrors.checkNone(serverId, `Pausing server ${serverId}`);
    await this.#parts.hypervisor.pause(serverId);
  }

  async lockPaused(serverId: ServerId, disks: readonly DiskSpec[]): Promise<readonly DiskId[]> {
    const { lockOnPause, hypervisor } = this.#parts;
    if (!lockOnPause || (await hypervisor.state(serverId)) !== 'paused') return [];
    const wiped = disks.filter((disk) => this.#encrypts(disk));
    for (const disk of wiped) await this.#disks.encryptor(disk).suspend?.(disk);
    crashPoint('agent.lock-paused.wiped');
    return wiped.map(({ id }) => id);
  }

  async lockedWhilePaused(serverId: ServerId): Promise<readonly DiskId[]> {
    const { mappings } = this.#parts;
    if (mappings === null) return [];
    const suspended = (await mappings.list()).filter(({ isSuspended }) => isSuspended);
    if (suspended.length === 0) return [];
    const inUse = await this.#guests.pathsInUse([serverId]);
    const isOurs = ({ ownerId, name }: Mapping) => ownerId === serverId || inUse.has(mappings.pathOf(name));
    return suspended.filter(isOurs).map(({ diskId }) => diskId);
  }

  unlockPaused(disks: readonly DiskSpec[], keys: DiskKeys): Promise<void> {
    return this.#parts.gate.admit(`Putting back keys of ${disks.length} disks`, async () => {
      for (const disk of disks) {
        const key = needKey(disk, keys.get(disk.id));
        await this.#disks.encryptor(disk).resume?.(disk, await this.#disks.medium(disk), key);
      }
      crashPoint('agent.unlock-paused.put-back');
    });
  }

  async unpauseServer(serverId: ServerId): Promise<void> {
    const [locked] = await this.lockedWhilePaused(serverId);
    if (locked) throw new NightlatchError('disk-locked', { doing: `Unpausing server ${serverId}`, disk: locked });
    await this.#parts.hypervisor.unpause(serverId);
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
    await this.#closeMappings('Locking strays', isStray);
    await clearScratch(runDirectory);
  }

  async lockDown(): Promise<void> {
    const { name, gate, disksDirectory, backends, volumeGroups, runDirectory } = this.#parts;
    const backendDirectories = backends.flatMap(({ directory }) => (directory === null ? [] : [directory]));
    await gate.close();
    await lockEverything(
      name,
      { ...this.#parts, places: { disksDirectory, backendDirectories, volumeGroups } },
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

  #withGuestDisks(
    server: ServerSpec,
    keys: DiskKeys,
    act: (domain: DomainSpec, keys: readonly DomainKey[]) => Promise<void>,
  ): Promise<void> {
    return this.#parts.gate.admit(`Starting server ${server.id}`, () => this.#guests.unlockAndAct(server, keys, act));
  }

  async #closeMappings(doing: string, which: (mapping: Mapping) => boolean): Promise<void> {
    const { mappings } = this.#parts;
    for (const mapping of (await mappings?.list()) ?? []) {
      if (which(mapping)) await mappings?.close(mapping.name, `${doing} ${mapping.ownerId}`);
    }
  }

  #encrypts(disk: DiskSpec): boolean {
    return disk.encryption !== null;
  }

  #suspends(disk: DiskSpec): boolean {
    return this.#disks.encryptor(disk).suspend !== undefined;
  }
}
