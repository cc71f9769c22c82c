import type { Duplex, Readable } from 'node:stream';
import type { DiskContent, DiskSpec, FileFormat, HeaderBackup } from '#core/disk.ts';
import type { DiskId, HostName, HostPath, ImageId, SecretId, ServerId } from '#core/ids.ts';
import type { Secret } from '#core/secret.ts';
import type { VolumeBackend } from '#core/volume-backend.ts';

/** What a host is and can do. */
export type HostFacts = {
  readonly name: HostName;
  readonly traits: readonly string[];
  /** Why it lacks a trait that its storage could have, in words. */
  readonly problems: readonly string[];
  readonly vcpus: number;
  readonly memoryMib: number;
  readonly diskGib: number;
  readonly virtType: 'kvm' | 'qemu';
  /** How new disks lie on this host's medium. */
  readonly storage: DiskSpec['storage'];
  /** Another one after each boot of the host's kernel; no guest outlives it. */
  readonly bootId: string;
  /** The format of an encrypted disk whose user named none. */
  readonly defaultEncryptionFormat: NonNullable<DiskSpec['encryption']>;
  /** The format of a disk of a server whose flavor and image say nothing of encryption; null: it is not encrypted. */
  readonly undecidedEncryptionFormat: DiskSpec['encryption'];
  /** Where volumes lie; none: this host keeps no volumes. */
  readonly volumeBackends: readonly VolumeBackend[];
};

/** One server as a host needs to know it to start it. */
export type ServerSpec = {
  readonly id: ServerId;
  /** `instance-0000002a`, as in Nova. */
  readonly name: string;
  readonly displayName: string;
  readonly projectId: string;
  readonly vcpus: number;
  readonly memoryMib: number;
  readonly disks: readonly DiskSpec[];
  /** The names of those disks in the domain, `vda`, in the same order. */
  readonly targets: readonly string[];
  /** Seen by the guest beside its own disks. */
  readonly volumes: readonly AttachedVolume[];
  readonly network: 'none' | 'user';
};

/** A volume as a guest sees it. `target`: its name in the domain, `vdb`; whatever the guest itself calls it. */
export type AttachedVolume = { readonly disk: DiskSpec; readonly target: string; readonly readonly?: boolean };

/** The key that opens a disk now, and the one that is to. */
export type KeyChange = { readonly from: Secret; readonly to: Secret };

/** The keys of a server's encrypted disks, and of an encrypted image that one is made from, for the time of one call. */
export type DiskKeys = ReadonlyMap<DiskId | ImageId, Secret>;

/** How a host gets the bytes of an image: in which format, and a way to open them as often as needed. */
export type ImageBytes = {
  readonly format: FileFormat;
  /** By LUKS, in the layer that the format has for it. */
  readonly isEncrypted: boolean;
  open(): Promise<Readable>;
};

/** The guest of a server. */
export type HostGuest = { readonly id: ServerId; readonly state: 'running' | 'paused' };

/** How far the data of a disk is copied to another. */
export type CopyProgress = { readonly copiedBytes: number; readonly totalBytes: number };

/**
 * How the mirror of a guest's disk is. `none`: the guest has the disk, which is not mirrored; `fullAt`: where the mirror
 * lies, if no space is left there, which ends one. `switched`: it has the mirror instead. `no-guest`: no guest that runs has
 * either.
 */
export type MirrorState =
  | { readonly kind: 'switched' | 'no-guest' }
  | { readonly kind: 'none'; readonly fullAt: HostPath | null }
  /**
   * `isReady`: all is there, and no write of the guest ends before it is in both. While the guest writes there is ever more to
   * copy.
   */
  | ({ readonly kind: 'mirrored'; readonly isReady: boolean } & CopyProgress);

/** A disk that a guest has open, and the one of equal size that is to take its place. */
export type MirroredDisk = { readonly from: DiskSpec; readonly to: DiskSpec };

/** What is on a host now, as it finds it, not as it remembers it. */
export type HostInventory = {
  readonly servers: readonly HostGuest[];
  readonly unlockedDisks: readonly string[];
  readonly libvirtSecrets: readonly string[];
  /** Ids of servers that have disks on this host. */
  readonly serversWithDisks: readonly ServerId[];
};

/** `server-ended`: nobody asked; the guest powered off or crashed. `look-again`: events may have been missed. */
export type HostEvent =
  | { readonly kind: 'server-ended'; readonly serverId: ServerId }
  | { readonly kind: 'look-again' };

/**
 * All that the control plane sees of a compute host. Every verb is idempotent: a repeat after a crash ends in the same
 * state. A key is an argument of one verb and is forgotten when that verb returns, except inside a running QEMU.
 */
export interface HostAgent {
  describe(): Promise<HostFacts>;

  /** Brings an image onto the host, an encrypted one as it is. It is opened only when the host does not have it yet. */
  cacheImage(imageId: ImageId, bytes: ImageBytes): Promise<void>;

  /** Removes from the host every image that is not among those to keep. *Repeat*: fine. */
  pruneImages(keep: ReadonlySet<ImageId>): Promise<void>;

  /**
   * Allocates, formats and fills a disk; on return it is locked. *Repeat*: starts over. The caller guarantees that the
   * disk was never in use, which is what its durable state `key-stored` (or `absent`, when not encrypted) says, and that
   * no guest has a disk open whose content it is to get; that one's key is among `keys` too, and that of an encrypted
   * image. *Throws* image-wrong-key; image-key-unavailable when such an image came without its key.
   */
  createDisk(disk: DiskSpec, content: DiskContent, keys: DiskKeys): Promise<void>;

  /**
   * How far `createDisk` is with the data of another disk, which it copies at most so fast from now on (0: as fast as it goes);
   * null: it does not. A copy that was asked after once, and then not for half a minute, is ended: nobody waits for it.
   */
  paceCopy(disk: DiskSpec, bytesPerSecond: number): Promise<CopyProgress | null>;

  /**
   * As `createDisk` from the disk `from`, which the server's guest has open and goes on with: what it holds at one moment.
   * Only the key of `disk` is needed. *Throws* hypervisor-failed when the guest does not run.
   */
  copyRunningDisk(server: ServerSpec, from: DiskSpec, disk: DiskSpec, keys: DiskKeys): Promise<void>;

  /**
   * Makes `to`, as `createDisk` does, and begins to mirror `from` onto it, which the server's guest has open and goes on with;
   * at most so fast (0: as fast as it goes). Only the key of `to` is needed; it stays with whoever encrypts. *Repeat*: a mirror
   * onto `to` goes on, one onto anything else is ended. On failure `to` is locked. *Throws* hypervisor-failed when no guest has it.
   */
  mirrorDisk(serverId: ServerId, disks: MirroredDisk, keys: DiskKeys, bytesPerSecond: number): Promise<void>;
  mirrorState(serverId: ServerId, disks: MirroredDisk): Promise<MirrorState>;
  setMirrorSpeed(serverId: ServerId, disks: MirroredDisk, bytesPerSecond: number): Promise<void>;
  /**
   * Pauses the guest and gives it `to` instead of `from`. On return it is still paused, both hold the same, on their media, and
   * `from` is locked. *Repeat*: fine. *Crash*: the guest is paused and has one or the other; both hold the same. *Throws*
   * hypervisor-failed when the mirror is not ready; the guest has `from` then, and may be paused.
   */
  switchToMirror(serverId: ServerId, disks: MirroredDisk): Promise<void>;
  /** Ends a mirror that was not switched to; `to` is locked, and worthless. *Repeat*, and no guest: fine. */
  endMirror(serverId: ServerId, disks: MirroredDisk): Promise<void>;

  /**
   * The bytes of a locked disk as they lie on its medium: of an encrypted one ciphertext, its header first. Of a block device
   * those that are the disk's.
   */
  openMedium(disk: DiskSpec): Promise<Readable>;

  /**
   * Gives the disk's header another key; what is on the disk stays. On return `to` opens it and nothing else does, also on the
   * medium. Locked or not, also while a guest has it open. The new header is kept first, under the name of the secret `toId`. *Repeat*: one that only `to` opens is fine. *Crash*: `from` or `to`
   * opens it, and a repeat goes on. *Throws* disk-wrong-key when neither does; not-implemented for a format without a header.
   */
  rekeyDisk(disk: DiskSpec, keys: KeyChange, toId: SecretId): Promise<void>;

  /** The copies of a disk's header that the host keeps, oldest first; none of a disk without a header. */
  headerBackups(disk: DiskSpec): Promise<readonly HeaderBackup[]>;

  /**
   * Writes a kept header back to a disk, whatever lies in its place now; `version` null: the last one. First that is kept too,
   * if it is a header, and the disk's key has opened what is to be written. *Repeat*: fine. *Crash*: a repeat mends it.
   * *Throws* disk-in-use; header-backup-missing; header-backup-unusable.
   */
  restoreHeader(disk: DiskSpec, version: number | null, keys: DiskKeys): Promise<void>;

  /** Destroys the header backups of a disk that belong to other secrets than its own. *Repeat*: fine. */
  forgetHeaders(disk: DiskSpec): Promise<void>;

  /**
   * Makes room for `disk.sizeBytes`, more than the `hadBytes` it had; what is on it stays. `server` has it open and its guest
   * sees the new size at once, exactly; null: it is locked, and the next unlock shows it. The key is needed only where the
   * kernel decrypts for a guest. *Repeat*: fine. *Throws* disk-full; hypervisor-failed.
   */
  growDisk(disk: DiskSpec, hadBytes: number, keys: DiskKeys, server: ServerId | null): Promise<void>;

  /**
   * Gives a running guest a volume; its key stays with whoever decrypts. On failure it is locked. *Repeat*: a guest that has
   * it is fine. *Throws* hypervisor-failed when the guest does not run or refuses; disk-header-missing, disk-wrong-key.
   */
  attachVolume(server: ServerSpec, volume: AttachedVolume, keys: DiskKeys): Promise<void>;

  /**
   * Takes a volume from a guest, waits until the guest has let go of it, and locks it. *Repeat*, and a guest that does not run
   * or does not have it: fine. *Throws* volume-not-released when the guest keeps it; it stays attached then.
   */
  detachVolume(serverId: ServerId, volume: AttachedVolume): Promise<void>;

  /** Locks the disk, overwrites its header backups and its header, removes its medium. Needs no key. Ends what copies to it. */
  destroyDisk(disk: DiskSpec): Promise<void>;

  /** Starts a server's guest. A server that already runs is fine. */
  startServer(server: ServerSpec, keys: DiskKeys): Promise<void>;

  /** Ends the guest, by its own shutdown within `gracefulMs` (0: at once) or by force, and locks all its disks. */
  stopServer(serverId: ServerId, disks: readonly DiskSpec[], gracefulMs: number): Promise<void>;

  /**
   * Saves the guest's memory onto the disk `memory` (already formatted), ends the guest, locks everything.
   * On failure the guest runs on and the memory disk is locked. A server whose guest is already gone is fine only if
   * `memory` holds a complete saved memory.
   */
  suspendServer(serverId: ServerId, memory: DiskSpec, memoryKey: Secret | null): Promise<void>;

  /**
   * Brings a suspended guest back from the disk `memory`, paused: its first instruction waits for `unpauseServer`, and
   * the caller destroys `memory` before that, so that no memory is ever resumed twice. On return `memory` is locked.
   * *Repeat*: a guest that is already back is fine. On failure the saved memory is kept and the memory disk is locked.
   */
  restoreServer(server: ServerSpec, memory: DiskSpec, keys: DiskKeys): Promise<void>;

  /**
   * Stops the virtual CPUs. *Throws* pause-keeps-key, before that, when the host is to forget keys while their guest is
   * paused and QEMU itself has that of one of `disks`.
   */
  pauseServer(serverId: ServerId, disks: readonly DiskSpec[]): Promise<void>;

  /**
   * Wipes the keys of a paused guest's disks from the host, where it is so configured; returns those disks. The guest still
   * has them open. *Repeat*: fine; a guest that is not paused keeps its keys.
   */
  lockPaused(serverId: ServerId, disks: readonly DiskSpec[]): Promise<readonly DiskId[]>;

  /** The disks of a guest whose keys `lockPaused` wiped, as the host finds it. */
  lockedWhilePaused(serverId: ServerId): Promise<readonly DiskId[]>;

  /** Puts the keys back. *Repeat*: fine. */
  unlockPaused(disks: readonly DiskSpec[], keys: DiskKeys): Promise<void>;

  /** Lets the virtual CPUs go on. *Throws* disk-locked when a key was not put back. *Repeat*: fine. */
  unpauseServer(serverId: ServerId): Promise<void>;

  /** The last `bytes` bytes of the serial console. Never fails for a server that does not run. */
  consoleLog(serverId: ServerId, bytes: number): Promise<Buffer>;
  /** A two-way stream to the serial console of a running guest; one client at a time. *Throws* hypervisor-failed when there is none. */
  openConsole(serverId: ServerId): Promise<Duplex>;
  /** Removes all that the host keeps of a deleted server besides its disks. */
  forgetServer(serverId: ServerId): Promise<void>;

  /** Those that are on the host now. */
  guests(): Promise<readonly HostGuest[]>;
  /** All that is on the host now, for which its storage is gone through. */
  inventory(): Promise<HostInventory>;
  /** Locks what is unlocked though nothing needs it: strays of a crash. Called before anything else at start. */
  lockStrays(): Promise<void>;

  /**
   * Ends every guest at once, with or without libvirt's help, and locks every disk. On return nothing on the host is
   * unlocked, and until `liftLockDown`, also over restarts, every verb that would unlock something throws host-locked;
   * those under way have ended. *Repeat*: fine. *Throws* host-not-locked; the host stays closed then.
   */
  lockDown(): Promise<void>;
  /** *Repeat*: fine. */
  liftLockDown(): Promise<void>;
  /** Whether a lock-down was begun and not lifted. */
  isLockedDown(): Promise<boolean>;

  onEvent(listener: (event: HostEvent) => void): () => void;
}
