import { setTimeout as delay } from 'node:timers/promises';
import { describeError, NightlatchError } from '#core/errors.ts';
import type { HostPath, ServerId } from '#core/ids.ts';
import { Secret } from '#core/secret.ts';
import type {
  DiskCopy,
  DomainDisk,
  DomainEnd,
  DomainKey,
  DomainSpec,
  DomainState,
  Hypervisor,
  HypervisorEvent,
  MirrorProgress,
  PresentDisk,
} from '#host/hypervisor/hypervisor.ts';
import { runPaths } from '#host/run-directory.ts';
import { readClusterKey } from '#host/storage/rbd/keyring.ts';
import { makeConsoleLog, readConsoleLog, removeConsoleLog } from './console-log.ts';
import { copyXml, type DomainHost, diskXml, domainXml, METADATA_NAMESPACE, secretXml } from './domain-xml.ts';
import { EventFeed, type FeedEvent } from './event-feed.ts';
import { checkSeenByLibvirt } from './mount-check.ts';
import { OneAtATime } from './one-at-a-time.ts';
import { LibvirtPool } from './pool.ts';
import type { Calls } from './protocol.ts';
import { disksIn, updateSavedXml, uuidOf } from './saved-xml.ts';

export type LibvirtOptions = {
  /** `PrivateLibvirt` has one. */
  readonly uri: string;
  readonly libvirtdPidFile: HostPath;
  /** Prepared by `prepareRunDirectory`. */
  readonly runDirectory: HostPath;
  /** `chooseVirtType` knows. */
  readonly virtType: 'kvm' | 'qemu';
  /** How long its first connection may take; long, unless told. */
  readonly connectTimeoutMs?: number;
};

/** Secrets of ours are filed under this, so that those of others are left alone. */
const USAGE_PREFIX = 'nightlatch:';
/** libvirtd's first connection may wait until it has asked every emulator what it can do. */
const CONNECT_TIMEOUT_MS = 60_000;
/** Saving takes as long as the medium needs for the guest's memory. */
const SAVE_TIMEOUT_MS = 3_600_000;
const COPY_POLL_MS = 100;
const DETACH_POLL_MS = 100;
/** A guest may have been too busy to see that it was asked, as while it boots. */
const DETACH_AGAIN_MS = 5000;

// virDomainState: the numbers of the two that are not "running" to us.
const PAUSED = 3;
const SHUT_OFF = 5;
// virDomainEventType, virDomainEventStoppedDetailType.
const STOPPED = 5;
const ENDS: readonly DomainEnd[] = ['guest-shutdown', 'destroyed', 'crashed', 'failed', 'saved', 'failed', 'failed'];

/** Runs domains on libvirt, by its own client library in processes of its own. */
export class LibvirtHypervisor implements Hypervisor, AsyncDisposable {
  readonly #options: LibvirtOptions;
  readonly #host: DomainHost;
  readonly #pool: LibvirtPool;
  readonly #feed: EventFeed;
  readonly #listeners = new Set<(event: HypervisorEvent) => void>();
  readonly #queue = new OneAtATime();

  private constructor(options: LibvirtOptions) {
    this.#options = options;
    const { consoles } = runPaths(options.runDirectory);
    this.#host = {
      virtType: options.virtType,
      consoleSocket: (serverId) => this.consoleSocket(serverId),
      consoleLog: (serverId) => `${consoles}/${serverId}.log` as HostPath,
    };
    this.#pool = new LibvirtPool(options.uri);
    this.#feed = new EventFeed(options.uri, (event) => this.#tell(event));
  }

  /** On return, libvirt answers and its events arrive. @throws hypervisor-unavailable. */
  static async open(options: LibvirtOptions): Promise<LibvirtHypervisor> {
    const hypervisor = new LibvirtHypervisor(options);
    try {
      const timeoutMs = options.connectTimeoutMs ?? CONNECT_TIMEOUT_MS;
      await hypervisor.#feed.connected(timeoutMs);
      await hypervisor.#pool.call('ping', [], { doing: 'Connecting to libvirt', timeoutMs });
      return hypervisor;
    } catch (error) {
      await hypervisor[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** The processes that speak to libvirt now. */
  get workerPids(): { readonly calls: readonly number[]; readonly events: number | undefined } {
    return { calls: this.#pool.workerPids, events: this.#feed.workerPid };
  }

  start(domain: DomainSpec, keys: readonly DomainKey[]): Promise<void> {
    const doing = `Starting server ${domain.serverId}`;
    const xml = domainXml(domain, this.#host);
    return this.#queue.run(domain.serverId, async () => {
      if ((await this.state(domain.serverId)) !== 'absent') return;
      await makeConsoleLog(this.#host.consoleLog(domain.serverId));
      await this.#withSecrets(doing, domain.disks, keys, () => this.#pool.call('createDomain', [xml], { doing }));
    });
  }

  restore(domain: DomainSpec, file: HostPath, keys: readonly DomainKey[]): Promise<void> {
    const doing = `Resuming server ${domain.serverId}`;
    return this.#queue.run(domain.serverId, async () => {
      if ((await this.state(domain.serverId)) !== 'absent') return;
      const saved = await this.#pool.call('savedXml', [file], { doing });
      if (uuidOf(saved) !== domain.serverId) {
        throw new NightlatchError('hypervisor-failed', { doing, reason: `${file} holds the memory of another server` });
      }
      const xml = updateSavedXml(saved, domain, this.#host);
      await makeConsoleLog(this.#host.consoleLog(domain.serverId));
      const timeoutMs = SAVE_TIMEOUT_MS;
      const restore = () => this.#pool.call('restoreDomain', [file, xml], { doing, timeoutMs });
      await this.#withSecrets(doing, domain.disks, keys, restore);
    });
  }

  async shutdown(serverId: ServerId, timeoutMs: number): Promise<boolean> {
    const doing = `Shutting down server ${serverId}`;
    // libvirt refuses to ask a guest that cannot listen.
    if ((await this.state(serverId)) === 'paused') return false;
    let isLate = false;
    let changed = Promise.withResolvers<void>();
    const stopListening = this.onEvent((event) => {
      if (event.kind === 'reconnected' || event.serverId === serverId) changed.resolve();
    });
    const timer = setTimeout(() => {
      isLate = true;
      changed.resolve();
    }, timeoutMs);
    try {
      if (!(await this.#pool.call('shutdownDomain', [serverId], { doing }))) return true;
      for (;;) {
        await changed.promise;
        // Made anew before looking, so that an event during the look is not lost.
        changed = Promise.withResolvers<void>();
        if ((await this.state(serverId)) === 'absent') return true;
        if (isLate) return false;
      }
    } finally {
      clearTimeout(timer);
      stopListening();
    }
  }

  async destroy(serverId: ServerId): Promise<void> {
    await this.#queue.run(serverId, () =>
      this.#pool.call('destroyDomain', [serverId], { doing: `Ending server ${serverId}` }),
    );
  }

  save(serverId: ServerId, file: HostPath): Promise<void> {
    const doing = `Suspending server ${serverId}`;
    return this.#queue.run(serverId, async () => {
      if (file.startsWith(`${runPaths(this.#options.runDirectory).unlocked}/`)) {
        await checkSeenByLibvirt(serverId, file, this.#options.libvirtdPidFile);
      }
      const saved = await this.#pool.call('saveDomain', [serverId, file], { doing, timeoutMs: SAVE_TIMEOUT_MS });
      if (!saved) throw new NightlatchError('hypervisor-failed', { doing, reason: 'it does not run' });
    });
  }

  async copyDisk(serverId: ServerId, target: string, copy: DiskCopy, keys: readonly DomainKey[]): Promise<void> {
    const doing = `Copying disk ${target} of server ${serverId}`;
    const isWhole = async () => {
      const progress = await this.#pool.call('copyProgress', [serverId, target], { doing });
      if (progress !== null) return progress.isWhole;
      throw new NightlatchError('hypervisor-failed', { doing, reason: 'the copying ended early; is the host full?' });
    };
    try {
      const begin = () => this.#pool.call('copyDisk', [serverId, target, copyXml(copy)], { doing });
      await this.#withSecrets(doing, [copy], keys, async () => must(doing, await begin()));
      while (!(await isWhole())) await delay(COPY_POLL_MS);
    } finally {
      await this.endCopy(serverId, target);
    }
  }

  async mirrorDisk(
    serverId: ServerId,
    target: string,
    copy: DiskCopy,
    keys: readonly DomainKey[],
    bytesPerSecond: number,
  ): Promise<void> {
    const doing = `Mirroring disk ${target} of server ${serverId}`;
    const args: Calls['mirrorDisk']['args'] = [serverId, target, copyXml(copy), String(bytesPerSecond)];
    const begin = () => this.#pool.call('mirrorDisk', args, { doing });
    await this.#withSecrets(doing, [copy], keys, async () => must(doing, await begin()));
  }

  async mirrorProgress(serverId: ServerId, target: string): Promise<MirrorProgress | null> {
    const doing = `Looking at the mirror of disk ${target} of server ${serverId}`;
    return await this.#pool.call('copyProgress', [serverId, target], { doing });
  }

  async setMirrorSpeed(serverId: ServerId, target: string, bytesPerSecond: number): Promise<void> {
    const doing = `Changing how fast disk ${target} of server ${serverId} is mirrored`;
    must(doing, await this.#pool.call('setCopySpeed', [serverId, target, String(bytesPerSecond)], { doing }));
  }

  async pivot(serverId: ServerId, target: string): Promise<void> {
    const doing = `Giving server ${serverId} the mirror of its disk ${target}`;
    must(doing, await this.#pool.call('pivot', [serverId, target], { doing, timeoutMs: SAVE_TIMEOUT_MS }));
  }

  async endCopy(serverId: ServerId, target: string): Promise<void> {
    const doing = `Ending the copy of disk ${target} of server ${serverId}`;
    await this.#pool.call('endCopy', [serverId, target], { doing, timeoutMs: SAVE_TIMEOUT_MS });
  }

  async disks(serverId: ServerId): Promise<readonly PresentDisk[]> {
    const xml = await this.#pool.call('domainXml', [serverId], { doing: `Looking at the disks of server ${serverId}` });
    return xml === null ? [] : disksIn(xml);
  }

  attach(serverId: ServerId, disk: DomainDisk, keys: readonly DomainKey[]): Promise<void> {
    const doing = `Attaching disk ${disk.target} to server ${serverId}`;
    return this.#queue.run(serverId, async () => {
      const isSame = ({ target, serial }: PresentDisk) => target === disk.target && serial === disk.serial;
      if ((await this.disks(serverId)).some(isSame)) return;
      const begin = () => this.#pool.call('attachDevice', [serverId, diskXml(disk)], { doing });
      await this.#withSecrets(doing, [disk], keys, async () => must(doing, await begin()));
    });
  }

  async detach(serverId: ServerId, disk: DomainDisk, timeoutMs: number): Promise<boolean> {
    const doing = `Detaching disk ${disk.target} from server ${serverId}`;
    const deadline = Date.now() + timeoutMs;
    const has = async () => (await this.disks(serverId)).some(({ target }) => target === disk.target);
    // libvirt tells the disk by its target alone, and needs no key for it.
    const xml = diskXml({ ...disk, encryption: null });
    const ask = () => this.#pool.call('detachDevice', [serverId, xml], { doing }).catch(ignoringUnplug);
    for (let askAt = 0; await has(); await delay(DETACH_POLL_MS)) {
      if (Date.now() > deadline) return false;
      if (Date.now() < askAt) continue;
      await ask();
      askAt = Date.now() + DETACH_AGAIN_MS;
    }
    // libvirt forgets a disk before QEMU has closed it. Another change of the domain waits until it has.
    await ask();
    return true;
  }

  async diskBytes(serverId: ServerId, target: string): Promise<number> {
    const doing = `Looking at disk ${target} of server ${serverId}`;
    const bytes = await this.#pool.call('diskBytes', [serverId, target], { doing });
    if (bytes === null) throw new NightlatchError('hypervisor-failed', { doing, reason: 'it does not run' });
    return bytes;
  }

  async resize(serverId: ServerId, target: string, sizeBytes: number): Promise<void> {
    const doing = `Growing disk ${target} of server ${serverId}`;
    must(doing, await this.#pool.call('resizeDisk', [serverId, target, String(sizeBytes)], { doing }));
  }

  async pause(serverId: ServerId): Promise<void> {
    const doing = `Pausing server ${serverId}`;
    must(doing, await this.#pool.call('suspendDomain', [serverId], { doing }));
  }

  async unpause(serverId: ServerId): Promise<void> {
    const doing = `Unpausing server ${serverId}`;
    if ((await this.state(serverId)) === 'running') return;
    must(doing, await this.#pool.call('resumeDomain', [serverId], { doing }));
  }

  async state(serverId: ServerId): Promise<DomainState> {
    return toState(await this.#pool.call('domainState', [serverId], { doing: `Looking at server ${serverId}` }));
  }

  async domains(): Promise<{ readonly serverId: ServerId; readonly name: string; readonly state: DomainState }[]> {
    const found = await this.#pool.call('listDomains', [METADATA_NAMESPACE], { doing: 'Listing domains' });
    return found.map(({ uuid, name, state }) => ({ serverId: uuid as ServerId, name, state: toState(state) }));
  }

  async secrets(): Promise<string[]> {
    const usages = await this.#pool.call('listSecrets', [USAGE_PREFIX], { doing: 'Listing libvirt secrets' });
    return usages.map((usage) => usage.slice(USAGE_PREFIX.length));
  }

  async forgetSecrets(): Promise<void> {
    await this.#pool.call('forgetSecrets', [USAGE_PREFIX], { doing: 'Removing libvirt secrets' });
  }

  consoleLog(serverId: ServerId, bytes: number): Promise<Buffer> {
    return readConsoleLog(this.#host.consoleLog(serverId), bytes);
  }

  forgetConsole(serverId: ServerId): Promise<void> {
    return removeConsoleLog(this.#host.consoleLog(serverId));
  }

  consoleSocket(serverId: ServerId): HostPath {
    return `${runPaths(this.#options.runDirectory).tty}/${serverId}` as HostPath;
  }

  onEvent(listener: (event: HypervisorEvent) => void): () => void {
    const own = (event: HypervisorEvent) => listener(event);
    this.#listeners.add(own);
    return () => this.#listeners.delete(own);
  }

  /** Ends our processes; guests run on. */
  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all([this.#pool[Symbol.asyncDispose](), this.#feed[Symbol.asyncDispose]()]);
  }

  /** Defines the secrets for the time of `act`; none is left, whatever happens. The first failure is the one told. */
  async #withSecrets(
    doing: string,
    disks: readonly DiskCopy[],
    given: readonly DomainKey[],
    act: () => Promise<unknown>,
  ): Promise<void> {
    await using own = new AsyncDisposableStack();
    const keys = [...given, ...(await clusterKeys(disks, own))];
    const failures: unknown[] = [];
    const attempt = async (step: () => Promise<unknown>) => step().catch((error: unknown) => failures.push(error));
    await attempt(async () => {
      if (keys.length > 0) await this.#setSecrets(doing, keys);
      await act();
    });
    const uuids = keys.map(({ secretUuid }) => secretUuid);
    const undefine = () => this.#pool.call('undefineSecrets', uuids, { doing });
    // Once more after a failure: a worker that died in the middle has been replaced by then.
    if (uuids.length > 0) await attempt(() => undefine().catch(undefine));
    if (failures.length > 0) throw failures[0];
  }

  /** In one call, because each costs its way to another process and back. */
  async #setSecrets(doing: string, keys: readonly DomainKey[]): Promise<void> {
    const args = keys.flatMap(({ secretUuid, usage, kind, key }) => {
      const name = USAGE_PREFIX + usage;
      return [secretXml(secretUuid, name, kind), name, String(key.use((bytes) => bytes.length))];
    });
    using key = Secret.join(keys.map((own) => own.key));
    await this.#pool.call('setSecrets', args, { doing, key });
  }

  #tell(event: FeedEvent): void {
    if (event.kind === 'reconnected') for (const listener of this.#listeners) listener(event);
    if (event.kind !== 'lifecycle' || event.event !== STOPPED) return;
    const why = ENDS[event.detail] ?? 'failed';
    for (const listener of this.#listeners) listener({ kind: 'ended', serverId: event.uuid as ServerId, why });
  }
}

/** By which QEMU may come to the disks that lie in a cluster, read once for each user, zeroed with `scope`. */
async function clusterKeys(disks: readonly DiskCopy[], scope: AsyncDisposableStack): Promise<DomainKey[]> {
  const keys: DomainKey[] = [];
  const ofUsers = new Map<string, Secret>();
  for (const { attachment, clusterSecretUuid: secretUuid } of disks) {
    if (!('rbd' in attachment) || secretUuid === undefined || attachment.rbd.secretUuid !== undefined) continue;
    const user = `${attachment.rbd.user} ${attachment.rbd.conf}`;
    const key = ofUsers.get(user) ?? scope.use(await readClusterKey(attachment.rbd));
    ofUsers.set(user, key);
    keys.push({ secretUuid, usage: `cluster_${secretUuid}`, kind: 'ceph', key });
  }
  return keys;
}

function toState(libvirtState: number | null): DomainState {
  if (libvirtState === null || libvirtState === SHUT_OFF) return 'absent';
  return libvirtState === PAUSED ? 'paused' : 'running';
}

/** The guest was asked before and has not answered; or it has, this moment. */
function ignoringUnplug(error: unknown): void {
  const isUnderWay = /in the process of unplug|device not found|no target device|DeviceNotFound/.test(
    describeError(error),
  );
  if (!isUnderWay) throw error;
}

function must(doing: string, exists: boolean): void {
  if (!exists) throw new NightlatchError('hypervisor-failed', { doing, reason: 'it does not run' });
}
