import { crashPoint } from '#core/crash-point.ts';
import type { Disk, DiskContent } from '#core/disk.ts';
import type { ServerId, VolumeId } from '#core/ids.ts';
import { disksOf, endUnplacedDisks, updateDisk } from '#db/disks.ts';
import type { Server } from '#db/servers.ts';
import { findVolume } from '#db/volumes.ts';
import type { DiskKeys } from '#host/host-agent.ts';
import type { LeaseReason } from '#keys/leases.ts';
import {
  checkNotTakenOver,
  contentOf,
  imageKeyOf,
  loadIfPlaced,
  loadPlaced,
  type OperationContext,
  openDisks,
  type PlacedServer,
  type ServerInput,
  savedMemory,
  serverSpec,
} from '#operations/context.ts';
import type { Step } from '#operations/engine.ts';

/** Steps that several operations share. Each says what a repeat does where that is not plain. */

/**
 * Waits for the operation this one took over from. The guest is ended first, so that an operation that waits for the
 * guest does not hold up the next.
 */
export function takeOver(context: OperationContext): Step<ServerInput> {
  return {
    name: 'take-over',
    async run({ serverId, after }) {
      if (after === null) return;
      await stopAndLock(context, serverId, 0);
      await context.engine.settled(after);
    },
  };
}

/**
 * Starts the guest under leases on all its disks, once nobody works on its volumes. Undo: the guest is ended, everything is
 * locked, the leases closed.
 */
export function startGuest(context: OperationContext): Step<ServerInput> {
  return {
    name: 'start',
    run: (input) =>
      withVolumesHeld(context, input, async (placed) => {
        const start = (keys: DiskKeys) => placed.agent.startServer(serverSpec(placed), keys);
        await context.keys.lend(openDisks(placed), 'run', input.requestId, start);
      }),
    undo: (input) => endGuest(context, input, 0),
  };
}

/** Ends the guest, locks all its disks, then closes their leases. *Repeat*: fine. */
export function stopGuest(context: OperationContext, gracefulMs: number): Step<ServerInput> {
  return { name: 'stop', run: (input) => endGuest(context, input, gracefulMs) };
}

/** As `stopGuest`, for a step that looks first. */
export async function endGuest(context: OperationContext, input: ServerInput, gracefulMs: number): Promise<void> {
  const locked = await stopAndLock(context, input.serverId, gracefulMs);
  await context.keys.close(locked, input.requestId);
}

/** Ends the guest and locks its disks, but for a volume that somebody works on, which no guest had. Returns what it locked. */
async function stopAndLock(context: OperationContext, serverId: ServerId, gracefulMs: number): Promise<Disk[]> {
  const placed = await loadIfPlaced(context, serverId);
  if (!placed) return [];
  const volumes = placed.volumes.map(({ disk }) => disk);
  using ending = await context.holds.forEnd(volumes.map(volumeOf));
  const locked = [...placed.disks, ...volumes.filter((disk) => ending.lockable.has(volumeOf(disk)))];
  await placed.agent.stopServer(serverId, locked, gracefulMs);
  return locked;
}

/**
 * Calls `use` with a server whose guest is about to start: while it goes on nobody works on its volumes, and none has
 * another key to come. *Throws* conflict when a delete takes the server over.
 */
export async function withVolumesHeld(
  context: OperationContext,
  input: ServerInput,
  use: (placed: PlacedServer) => Promise<void>,
): Promise<void> {
  for (;;) {
    const theirs = openVolumes(await loadPlaced(context, input.serverId));
    const rekey = await (async () => {
      using _held = await context.holds.forStart(theirs, () => checkNotTakenOver(context, input));
      const placed = await loadPlaced(context, input.serverId);
      const changing = await keyChangeUnderWay(context, openVolumes(placed));
      if (changing === null) await use(placed);
      return changing;
    })();
    if (rekey === null) return;
    await context.engine.settled(rekey.id);
  }
}

/** It waits for no server any more when the disk says `rekeying`. */
async function keyChangeUnderWay({ db }: OperationContext, volumes: readonly VolumeId[]) {
  for (const id of volumes) {
    const isChanging = (await disksOf(db, id)).some(({ state }) => state === 'rekeying');
    const operation = isChanging ? (await findVolume(db, id))?.operation : null;
    if (operation) return operation;
  }
  return null;
}

function openVolumes(placed: PlacedServer): VolumeId[] {
  return openDisks(placed)
    .filter(({ role }) => role === 'volume')
    .map(volumeOf);
}

function volumeOf({ ownerId }: Disk): VolumeId {
  return ownerId as VolumeId;
}

/** Wipes the keys of a paused guest, where its host does that, and closes their leases. *Repeat*: fine. */
export async function lockIfPaused(context: OperationContext, { serverId, requestId }: ServerInput): Promise<void> {
  const placed = await loadPlaced(context, serverId);
  const open = openDisks(placed);
  const locked = await placed.agent.lockPaused(serverId, open);
  await context.keys.close(
    open.filter(({ id }) => locked.includes(id)),
    requestId,
  );
}

/** Puts back the keys that `lockIfPaused` wiped, under leases. *Repeat*: fine. */
export async function unlockPaused(
  context: OperationContext,
  { serverId, requestId }: ServerInput,
  reason: LeaseReason,
): Promise<void> {
  const placed = await loadPlaced(context, serverId);
  const { agent } = placed;
  const locked = await agent.lockedWhilePaused(serverId);
  const theirs = openDisks(placed).filter(({ id }) => locked.includes(id));
  if (theirs.length === 0) return;
  await context.keys.lend(theirs, reason, requestId, (keys) => agent.unlockPaused(theirs, keys));
}

/** Makes and stores the key of each encrypted disk that has none. Undo destroys the keys and ends the disks' rows. */
export function storeKeys(context: OperationContext, which: (disk: Disk) => boolean): Step<ServerInput> {
  return {
    name: 'store-keys',
    async run({ serverId, requestId }) {
      const { disks } = await loadPlaced(context, serverId);
      for (const disk of disks.filter(which)) await context.keys.createKey(disk, requestId);
    },
    undo: (input) => destroyDisks(context, input, which),
  };
}

/** Brings the images that disks are still to be made from onto the host. *Repeat*: finds them there. */
export function cacheImages(context: OperationContext, which: (disk: Disk) => boolean): Step<ServerInput> {
  return {
    name: 'cache-image',
    async run({ serverId }) {
      const { disks, agent } = await loadPlaced(context, serverId);
      for (const { imageId, state } of disks.filter(which)) {
        if (imageId === null || state === 'formatted') continue;
        await agent.cacheImage(imageId, await context.images.openImage(imageId));
      }
    },
  };
}

/**
 * Allocates, formats and fills each disk that is not yet formatted; `content` says with what, seeing all disks of the
 * server. *Repeat*: starts over with the disk a crash cut short, which no guest has seen. A delete locks the disks, which
 * ends a long copy, and then nothing is begun again.
 */
export function createDisks(
  context: OperationContext,
  which: (disk: Disk) => boolean,
  content: (server: Server, disk: Disk, disks: readonly Disk[]) => DiskContent = contentOf,
): Step<ServerInput> {
  return {
    name: 'create-disks',
    async run(input) {
      const { serverId, requestId } = input;
      const { server, disks, agent } = await loadPlaced(context, serverId);
      for (const disk of disks.filter(which)) {
        if (disk.state === 'formatted') continue;
        await checkNotTakenOver(context, input);
        const filling = content(server, disk, disks);
        const copied = filling.kind === 'disk' ? disks.filter(({ id }) => id === filling.from.id) : [];
        const reason = copied.length > 0 ? 'copy' : 'create';
        const imageKey = await imageKeyOf(context, disk, filling);
        const create = (keys: DiskKeys) => agent.createDisk(disk, filling, keys);
        await context.keys.lend([disk, ...copied], reason, requestId, create, imageKey);
        crashPoint('steps.create-disks.made');
        await context.keys.close([disk, ...copied], requestId);
        await updateDisk(context.db, disk.id, { state: 'formatted' });
      }
    },
    undo: (input) => destroyDisks(context, input, which),
  };
}

/**
 * Locks disks, overwrites their headers, removes them, destroys their keys: in this order, so that a crash in between
 * leaves a disk without data and a key without a disk, never data that its key still opens. *Repeat*: fine.
 */
export async function destroyDisks(
  context: OperationContext,
  { serverId, requestId }: ServerInput,
  which: (disk: Disk) => boolean,
): Promise<void> {
  const placed = await loadIfPlaced(context, serverId);
  if (!placed) return await endUnplacedDisks(context.db, serverId);
  for (const disk of placed.disks.filter(which)) {
    await placed.agent.destroyDisk(disk);
    crashPoint('steps.destroy-disks.removed');
    await context.keys.close([disk], requestId);
    await context.keys.destroyKey(disk, requestId);
    await updateDisk(context.db, disk.id, { state: 'destroyed', secret_id: null });
  }
}

/** Destroys what keeps a server from starting from its own disks: saved memory, rescue disk. *Repeat*: fine. */
export function destroyBeside(context: OperationContext): Step<ServerInput> {
  return {
    name: 'destroy-memory',
    run: (input) => destroyDisks(context, input, ({ role }) => role === 'memory' || role === 'rescue'),
  };
}

/** Destroys a server's saved memory, if it has one. *Repeat*: fine. */
export function destroySavedMemory(context: OperationContext): Step<ServerInput> {
  return {
    name: 'destroy-memory',
    run: (input) => destroyDisks(context, input, (disk) => savedMemory([disk]) !== null),
  };
}
