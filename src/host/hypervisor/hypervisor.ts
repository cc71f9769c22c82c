import type { EncryptionFormat } from '#core/encryption-intent.ts';
import type { HostPath, ServerId } from '#core/ids.ts';
import type { Secret } from '#core/secret.ts';
import type { DiskAttachment } from '#host/storage/storage-driver.ts';

/** One disk of a domain. `serial` is what the guest finds under `/dev/disk/by-id/virtio-<serial>`. */
export type DomainDisk = {
  readonly attachment: DiskAttachment;
  /** Name in the domain: vda, vdb, … or hda for the config drive's CD-ROM. */
  readonly target: string;
  readonly device: 'disk' | 'cdrom';
  readonly serial: string;
  readonly readonly?: boolean;
  /** Null: not encrypted. `secretUuid` names the libvirt secret; it exists only while the domain is being started. */
  readonly encryption: { readonly format: EncryptionFormat; readonly secretUuid: string } | null;
  /** Of an image in a cluster: the libvirt secret by which QEMU may come to it. It exists no longer than the other. */
  readonly clusterSecretUuid?: string;
};

/** The medium that a disk is copied to. */
export type DiskCopy = Pick<DomainDisk, 'attachment' | 'encryption' | 'clusterSecretUuid'>;

/** What a domain is made of. Its libvirt UUID is the server's id. */
export type DomainSpec = {
  readonly serverId: ServerId;
  /** `instance-0000002a`, the name an operator sees in `virsh list`. */
  readonly name: string;
  readonly displayName: string;
  readonly projectId: string;
  readonly vcpus: number;
  readonly memoryMib: number;
  readonly disks: readonly DomainDisk[];
  /** User-mode network card, or none. */
  readonly network: 'none' | 'user';
};

/**
 * A disk that a domain has now. `copy`: what it is being copied or mirrored to; it is ready when all is there and every write
 * goes to both.
 */
export type PresentDisk = {
  readonly target: string;
  readonly serial: string;
  readonly path: string;
  readonly copy: { readonly path: string; readonly isReady: boolean } | null;
};

/** How far a mirror is; while the guest writes, there is ever more to copy. */
export type MirrorProgress = { readonly copiedBytes: number; readonly totalBytes: number };

/**
 * A key for the time of one call, by the libvirt secret's UUID. `usage` is the name libvirt files it under. `kind`: `volume`, unless
 * it is that of a cluster's user.
 */
export type DomainKey = {
  readonly secretUuid: string;
  readonly usage: string;
  readonly kind?: 'volume' | 'ceph';
  readonly key: Secret;
};

export type DomainState = 'running' | 'paused' | 'absent';

/** Why a domain ended. */
export type DomainEnd = 'guest-shutdown' | 'destroyed' | 'crashed' | 'saved' | 'failed';

/** Facts that a hypervisor tells unasked. `reconnected`: events may have been missed, look again. */
export type HypervisorEvent =
  | { readonly kind: 'ended'; readonly serverId: ServerId; readonly why: DomainEnd }
  | { readonly kind: 'reconnected' };

/**
 * Runs domains. A domain exists only while its guest runs or is paused: libvirt calls that transient. What a stopped
 * server is made of lives in the control plane, so nothing of it can grow stale on a host.
 *
 * Every call *throws* hypervisor-unavailable when libvirt does not answer, hypervisor-failed when it refuses, and
 * disk-full when it says that this is why.
 */
export interface Hypervisor {
  /**
   * Starts a domain. Its keys are libvirt secrets (ephemeral, private) only until QEMU has opened the disks; on return,
   * with or without an error, none is left. *Repeat*: a domain that already runs is fine.
   */
  start(domain: DomainSpec, keys: readonly DomainKey[]): Promise<void>;

  /** Asks the guest to power off (ACPI). Returns true when it has ended within `timeoutMs`. An absent domain: true. */
  shutdown(serverId: ServerId, timeoutMs: number): Promise<boolean>;

  /** Ends the domain at once; on return its QEMU process is gone. *Repeat*: an absent domain is fine. */
  destroy(serverId: ServerId): Promise<void>;

  /** Saves the guest's memory to an existing file and ends the domain. On failure the guest runs on. */
  save(serverId: ServerId, file: HostPath): Promise<void>;

  /** Brings a saved guest back, paused, from `file`. Keys as in `start`. *Repeat*: a domain that exists is fine. */
  restore(domain: DomainSpec, file: HostPath, keys: readonly DomainKey[]): Promise<void>;

  /**
   * Copies what a domain's disk holds at one moment onto a fresh medium of the same size, while its guest goes on; QEMU has
   * forgotten the medium and its key on return. `target` names the disk in the domain. Keys as in `start`.
   * *Repeat*: starts over; `endCopy` first. On failure the guest is unharmed and the copy is worthless.
   */
  copyDisk(serverId: ServerId, target: string, copy: DiskCopy, keys: readonly DomainKey[]): Promise<void>;
  /** Ends a copy that is under way, such as one that a crash left behind. *Repeat*, and none, and no domain: fine. */
  endCopy(serverId: ServerId, target: string): Promise<void>;

  /**
   * Begins to mirror a domain's disk onto a fresh medium of the same size, at most so fast (0: as fast as it goes); the guest
   * goes on. Keys as in `start`; QEMU keeps that of the copy with it. *Repeat*: refused while one is under way.
   */
  mirrorDisk(
    serverId: ServerId,
    target: string,
    copy: DiskCopy,
    keys: readonly DomainKey[],
    bytesPerSecond: number,
  ): Promise<void>;
  /** Null: there is no such domain, or the disk is not being mirrored, as after a failure to write the copy. */
  mirrorProgress(serverId: ServerId, target: string): Promise<MirrorProgress | null>;
  setMirrorSpeed(serverId: ServerId, target: string, bytesPerSecond: number): Promise<void>;
  /**
   * Makes a mirror that is ready the domain's disk. What both hold is on the media on return, and QEMU has closed the one
   * before. *Throws* hypervisor-failed when it is not ready; the disk is what it was then. *Repeat*: refused.
   */
  pivot(serverId: ServerId, target: string): Promise<void>;

  /** The disks that a domain has now; an absent one has none. */
  disks(serverId: ServerId): Promise<readonly PresentDisk[]>;

  /** Gives a running domain another disk. Keys as in `start`. *Repeat*: one that it has, by target and serial, is fine. */
  attach(serverId: ServerId, disk: DomainDisk, keys: readonly DomainKey[]): Promise<void>;

  /**
   * Asks a domain to let go of a disk, again and again until its guest has, at most `timeoutMs`; returns whether it has, in which
   * case QEMU has closed it. *Repeat*, one that it does not have, and an absent domain: true.
   */
  detach(serverId: ServerId, disk: DomainDisk, timeoutMs: number): Promise<boolean>;

  /** How large a disk is for the guest that runs. */
  diskBytes(serverId: ServerId, target: string): Promise<number>;

  /** Makes a disk of a running domain larger, exactly so large; a file grows with it. *Repeat*: fine. */
  resize(serverId: ServerId, target: string, sizeBytes: number): Promise<void>;

  /** Stops the virtual CPUs; keys stay with QEMU. *Repeat*: fine. */
  pause(serverId: ServerId): Promise<void>;
  /** Lets the virtual CPUs go on. *Repeat*: fine. */
  unpause(serverId: ServerId): Promise<void>;

  state(serverId: ServerId): Promise<DomainState>;
  /** Every domain of ours that exists now. */
  domains(): Promise<{ readonly serverId: ServerId; readonly name: string; readonly state: DomainState }[]>;
  /** The libvirt secrets of ours that exist now, by usage; none, unless a start was cut short. */
  secrets(): Promise<string[]>;
  /** Undefines every libvirt secret of ours. */
  forgetSecrets(): Promise<void>;

  /** The last `bytes` bytes the guest wrote to its serial console, this boot and earlier ones while the host kept them. */
  consoleLog(serverId: ServerId, bytes: number): Promise<Buffer>;
  /** Forgets the console log of a deleted server. */
  forgetConsole(serverId: ServerId): Promise<void>;
  /** The UNIX socket that carries the guest's serial console, for one client at a time. */
  consoleSocket(serverId: ServerId): HostPath;

  /** Calls `listener` for every event until the returned function is called. */
  onEvent(listener: (event: HypervisorEvent) => void): () => void;
}
