import type { Readable } from 'node:stream';
import type { BackupStore } from '#backups/backup-store.ts';
import { type ConfigDriveFacts, configDriveFiles, hostnameOf } from '#core/config-drive.ts';
import type { Disk, DiskContent } from '#core/disk.ts';
import { NightlatchError } from '#core/errors.ts';
import type { HostName, ImageId, ServerId } from '#core/ids.ts';
import type { Image } from '#core/image.ts';
import { imageEncryption } from '#core/image-encryption.ts';
import type { TaskState } from '#core/server.ts';
import type { Database } from '#db/database.ts';
import { asDisk, disksOf, liveDiskOf } from '#db/disks.ts';
import { findServer, instanceName, releaseServer, type Server, type ServerChange, showProgress } from '#db/servers.ts';
import { attachmentsToServer, devicesEverUsed } from '#db/volume-attachments.ts';
import { findVolume } from '#db/volumes.ts';
import type { HostAgent, HostGuest, ImageBytes, ServerSpec } from '#host/host-agent.ts';
import type { KeyService } from '#keys/key-service.ts';
import type { ImageKey } from '#keys/leases.ts';
import { ownDevices, targetOf } from '#operations/device-names.ts';
import type { Engine, Failure } from '#operations/engine.ts';
import type { VolumeHolds } from '#operations/volume-holds.ts';

/** What an operation needs of the image store. */
export type ImageSource = {
  /** Null: there is none. */
  describe(id: ImageId): Promise<Image | null>;
  /** The bytes of an image, to bring it onto a host. */
  openImage(id: ImageId): Promise<ImageBytes>;
  /** Takes the bytes of a queued image; on return it is active. *Throws* conflict when it is not queued. */
  upload(id: ImageId, bytes: Readable): Promise<void>;
  /** Removes an image with all that belongs to it, protected or not. *Repeat*: fine. */
  discard(id: ImageId, requestId: string): Promise<void>;
};

/** The ports that operations work through. */
export type OperationContext = {
  readonly db: Database;
  readonly keys: KeyService;
  readonly images: ImageSource;
  readonly backups: BackupStore;
  readonly engine: Pick<Engine, 'begin' | 'settled' | 'start'>;
  /** Who has volumes in hand that no guest has. */
  readonly holds: VolumeHolds;
  /** How long a guest may take over its own shutdown before it is ended, milliseconds. */
  readonly shutdownTimeoutMs: number;
  /** After this time a shelved server leaves its host, seconds; negative: never. */
  readonly shelvedOffloadSeconds: number;
  /** How fast the data of a volume is moved under a guest at most, unless told; 0: as fast as it goes. */
  readonly volumeCopyBytesPerSecond: number;
  agent(host: HostName): HostAgent;
};

/** What some operations are told besides. It is recorded. */
export type Particulars = {
  /** Of a rescue: what to start from. */
  readonly image?: { readonly id: ImageId; readonly virtualSizeBytes: number };
  /** The image that is made of the root disk, or that the server was shelved to. */
  readonly imageId?: ImageId;
};

/** What every server operation is given. `after`: the operation it took over from and has to wait for. */
export type ServerInput = Particulars & {
  readonly serverId: ServerId;
  readonly operationId: string;
  readonly requestId: string;
  readonly after: string | null;
};

/** A volume's disk, the name its guest has it under, such as vdb, and whether that may only read it. */
export type AttachedDisk = { readonly disk: Disk; readonly target: string; readonly readonly: boolean };

/** A server with its disks, the volumes attached to it and the agent of its host, as they are now. */
export type PlacedServer = {
  readonly server: Server;
  readonly disks: readonly Disk[];
  readonly volumes: readonly AttachedDisk[];
  /** Device names that volumes of it have, or ever had. */
  readonly volumeDevices: ReadonlySet<string>;
  readonly agent: HostAgent;
};

/** @throws server-unplaced, as when an admin calls a failed server active. */
export async function loadPlaced(context: OperationContext, serverId: ServerId): Promise<PlacedServer> {
  const placed = await loadIfPlaced(context, serverId);
  if (!placed) throw new NightlatchError('server-unplaced', { server: serverId });
  return placed;
}

/** As `loadPlaced`; null when the server was never placed on a host, so that there is nothing to do there. */
export async function loadIfPlaced(context: OperationContext, serverId: ServerId): Promise<PlacedServer | null> {
  const server = await findServer(context.db, serverId);
  if (!server?.host) return null;
  const disks = (await disksOf(context.db, serverId)).filter((row) => row.storage !== null).map(asDisk);
  const volumes = await attachedDisks(context, serverId);
  const volumeDevices = await devicesEverUsed(context.db, serverId);
  return { server, disks, volumes, volumeDevices, agent: context.agent(server.host) };
}

/** The volumes a guest has when it runs. Those that are being attached or detached count: what ends a guest locks them. */
async function attachedDisks({ db }: OperationContext, serverId: ServerId): Promise<AttachedDisk[]> {
  const attached: AttachedDisk[] = [];
  for (const { volume_id, status, device } of await attachmentsToServer(db, serverId)) {
    if (status === 'reserved' || device === null) continue;
    const disk = await liveDiskOf(db, volume_id);
    const readonly = (await findVolume(db, volume_id))?.readonly ?? false;
    if (disk && disk.storage !== null) attached.push({ disk: asDisk(disk), target: targetOf(device), readonly });
  }
  return attached;
}

/** All that the guest of a server has open while it runs. */
export function openDisks(placed: Pick<PlacedServer, 'disks' | 'volumes'>): Disk[] {
  return [...guestDisks(placed.disks), ...guestVolumes(placed).map(({ disk }) => disk)];
}

/** A rescued server has none of its volumes, as in Nova. */
function guestVolumes({ disks, volumes }: Pick<PlacedServer, 'disks' | 'volumes'>): readonly AttachedDisk[] {
  return rescueDisk(disks) ? [] : volumes;
}

/**
 * The disks the guest sees, in its order: all but its saved memory, a snapshot, and what is being replaced. A rescued one
 * has the rescue disk first, and of its own the root disk and the config drive.
 */
export function guestDisks(disks: readonly Disk[]): Disk[] {
  const live = disks.filter(({ role, standing }) => role !== 'memory' && role !== 'snapshot' && standing === 'live');
  if (!rescueDisk(live)) return live;
  return live.filter(({ role }) => role === 'rescue' || role === 'root' || role === 'config-drive');
}

/** The disk a rescued server starts from; null: it is not rescued. */
export function rescueDisk(disks: readonly Disk[]): Disk | null {
  return disks.find(({ role, standing }) => role === 'rescue' && standing === 'live') ?? null;
}

export function savedMemory(disks: readonly Disk[]): Disk | null {
  return disks.find((disk) => disk.role === 'memory') ?? null;
}

export function serverSpec(placed: Omit<PlacedServer, 'agent'>): ServerSpec {
  const { server } = placed;
  const disks = guestDisks(placed.disks);
  // A rescued guest has no volumes to make way for, and starts from its first disk.
  const taken = rescueDisk(placed.disks) ? new Set<string>() : placed.volumeDevices;
  return {
    id: server.id,
    name: instanceName(server),
    displayName: server.name,
    projectId: server.project_id,
    vcpus: server.flavor.vcpus,
    memoryMib: server.flavor.ramMib,
    disks,
    targets: ownDevices(disks.length, taken).map(targetOf),
    volumes: guestVolumes(placed),
    network: server.network,
  };
}

/** What a new disk of this server holds. See Nova: ephemeral disks come with a file system, swap with its signature. */
export function contentOf(server: Server, disk: Disk): DiskContent {
  switch (disk.role) {
    case 'rescue':
    case 'root':
      return disk.imageId === null ? { kind: 'blank' } : { kind: 'image', imageId: disk.imageId };
    case 'ephemeral':
      return { kind: 'filesystem', label: `ephemeral${disk.ordinal}` };
    case 'swap':
      return { kind: 'swap' };
    case 'config-drive':
      return { kind: 'config-drive', files: configDriveFiles(configDriveFacts(server)) };
    case 'memory':
    case 'snapshot':
    case 'volume':
    case 'volume-snapshot':
    case 'backup':
    case 'volume-image':
      return { kind: 'blank' };
  }
}

/**
 * The key that making a disk needs besides its own: that of the encrypted image it is made from. Null: it needs none.
 * *Throws* image-key-unavailable when the image belongs to another project, or has none, or the disk is in clear.
 */
export async function imageKeyOf(
  context: OperationContext,
  disk: Disk,
  content: DiskContent,
): Promise<ImageKey | null> {
  // One that is gone may still be on the host, which knows whether it is encrypted.
  const image = content.kind === 'image' ? await context.images.describe(content.imageId) : null;
  const encryption = image && imageEncryption(image.properties);
  if (!image || !encryption) return null;
  const refuse = (reason: string) => new NightlatchError('image-key-unavailable', { image: image.id, reason });
  if (image.projectId !== disk.projectId) throw refuse('it belongs to another project');
  if (disk.encryption === null) throw refuse('it is encrypted, and the disk would show its data in clear');
  if (encryption.secretId === null) throw refuse('it has no os_encrypt_key_id');
  return { imageId: image.id, secretId: encryption.secretId, disk };
}

/** Gives the server back: the operation has ended in this state. A server that a delete took over is left alone. */
export async function finish(context: OperationContext, input: ServerInput, change: ServerChange): Promise<void> {
  await releaseServer(context.db, input.serverId, input.operationId, { ...change, fault: null });
}

/** Gives the server back with a fault that tells its user what happened, in the state its host finds it in. */
export async function finishWithFault(context: OperationContext, input: ServerInput, failure: Failure): Promise<void> {
  const state = await stateOnHost(context, input.serverId);
  await releaseServer(context.db, input.serverId, input.operationId, { ...state, fault: faultOf(failure) });
}

export function faultOf(failure: Failure) {
  return { code: failure.status, message: failure.message, created: new Date().toISOString() };
}

/** Shows how far the operation has come. A server that a delete took over is left alone. */
export async function showTask(context: OperationContext, input: ServerInput, task: TaskState): Promise<void> {
  await showProgress(context.db, input.serverId, input.operationId, task);
}

/** @throws conflict when a delete has taken the server over, so that nobody wants what comes next. */
export async function checkNotTakenOver(context: OperationContext, input: ServerInput): Promise<void> {
  const server = await findServer(context.db, input.serverId);
  if (server?.operation?.id === input.operationId) return;
  throw new NightlatchError('conflict', { reason: `Server ${input.serverId} was taken over by another operation.` });
}

/** The guest of a server that is on its host now; null: none is. */
export async function guestOf({ agent, server }: Pick<PlacedServer, 'agent' | 'server'>): Promise<HostGuest | null> {
  return (await agent.guests()).find(({ id }) => id === server.id) ?? null;
}

/** What a server is, judged by what runs and what is kept, when nobody's plan for it worked out. */
export async function stateOnHost(
  context: OperationContext,
  serverId: ServerId,
): Promise<Pick<ServerChange, 'vm_state' | 'power_state'>> {
  const placed = await loadIfPlaced(context, serverId);
  const running = placed && (await guestOf(placed));
  if (placed && rescueDisk(placed.disks)) return { vm_state: 'rescued', power_state: running?.state ?? 'shutdown' };
  if (placed && placed.server.old_vm_state !== null) {
    return { vm_state: 'resized', power_state: running?.state ?? 'shutdown' };
  }
  if (running?.state === 'running') return { vm_state: 'active', power_state: 'running' };
  if (running?.state === 'paused') return { vm_state: 'paused', power_state: 'paused' };
  const server = placed?.server ?? (await findServer(context.db, serverId));
  if (server?.shelved_at) {
    return { vm_state: server.host === null ? 'shelved_offloaded' : 'shelved', power_state: 'shutdown' };
  }
  const memory = placed ? savedMemory(placed.disks) : null;
  if (memory?.state === 'formatted') return { vm_state: 'suspended', power_state: 'shutdown' };
  return { vm_state: 'stopped', power_state: 'shutdown' };
}

function configDriveFacts(server: Server): ConfigDriveFacts {
  return {
    serverId: server.id,
    projectId: server.project_id,
    name: server.name,
    hostname: server.hostname ?? hostnameOf(server.name),
    metadata: server.metadata,
    launchIndex: server.launch_index,
    userData: server.user_data,
    key:
      server.key_name === null || server.public_key === null
        ? null
        : { name: server.key_name, line: server.public_key },
  };
}
