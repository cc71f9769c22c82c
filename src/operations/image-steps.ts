import { crashPoint } from '#core/crash-point.ts';
import type { Disk } from '#core/disk.ts';
import { NightlatchError } from '#core/errors.ts';
import type { ImageId } from '#core/ids.ts';
import type { Image } from '#core/image.ts';
import type { TaskState } from '#core/server.ts';
import { updateDisk } from '#db/disks.ts';
import { findServer, showProgress } from '#db/servers.ts';
import type { DiskKeys } from '#host/host-agent.ts';
import {
  guestDisks,
  guestOf,
  loadPlaced,
  type OperationContext,
  type PlacedServer,
  type ServerInput,
  serverSpec,
} from '#operations/context.ts';
import type { Step } from '#operations/engine.ts';
import { deleted, handOverKey, whileWanted } from '#operations/image-data.ts';
import { destroyDisks, lockIfPaused, storeKeys, unlockPaused } from '#operations/steps.ts';

/** What a client sees while the steps run. */
export type ImageTasks = { readonly copy: TaskState; readonly pending: TaskState; readonly upload: TaskState };

const isSnapshot = (disk: Disk) => disk.role === 'snapshot';

/**
 * The steps that make a server's root disk an image; the rows of the image and of its disk are there (`planImage`). The
 * image of an encrypted disk is encrypted with a key of its own, and at no time does it lie anywhere in clear. `isKept`:
 * whether the image stays when the operation fails.
 *
 * | step       | effect                                                  | compensation                  | a repeat            |
 * |------------|---------------------------------------------------------|-------------------------------|---------------------|
 * | store-keys | the snapshot's secret is stored                         | it is destroyed, rows ended   | keeps the secret    |
 * | copy       | the snapshot holds what the root disk holds; both locked, leases closed | medium gone   | starts over         |
 * | hand-over  | the image names the secret, the snapshot no longer does | secret goes with the image    | finds it done       |
 * | upload     | the image is active                                     | the image is gone, unless it is kept | starts over, or finds it active |
 * | remove     | the snapshot is gone                                    | none                          | fine                |
 */
export function imageSteps(
  context: OperationContext,
  tasks: ImageTasks,
  isKept: (input: ServerInput, image: Image) => Promise<boolean>,
): Step<ServerInput>[] {
  const { run } = storeKeys(context, isSnapshot);
  return [
    { name: 'store-keys', run, undo: (input) => discard(context, input, isKept) },
    { name: 'copy', run: (input) => copy(context, input, tasks.copy) },
    { name: 'hand-over', run: (input) => handOver(context, input) },
    { name: 'upload', run: (input) => upload(context, input, tasks) },
    { name: 'remove', run: (input) => destroyDisks(context, input, isSnapshot) },
  ];
}

export function imageOf({ imageId, operationId }: ServerInput): ImageId {
  if (imageId === undefined) throw new Error(`operation ${operationId} names no image`);
  return imageId;
}

/** The image goes first: a key that it names is destroyed with it, not with the disk. */
async function discard(
  context: OperationContext,
  input: ServerInput,
  isKept: Parameters<typeof imageSteps>[2],
): Promise<void> {
  const image = await context.images.describe(imageOf(input));
  if (image && !(await isKept(input, image))) await context.images.discard(image.id, input.requestId);
  await destroyDisks(context, input, isSnapshot);
}

async function copy(context: OperationContext, input: ServerInput, task: TaskState): Promise<void> {
  const placed = await loadPlaced(context, input.serverId);
  const snapshot = snapshotOf(placed);
  if (snapshot.state === 'formatted') return;
  await progress(context, input, task);
  const root = guestDisks(placed.disks).find(({ role }) => role === 'root');
  if (!root) throw new Error(`server ${input.serverId} has no root disk`);
  const isRunning = (await guestOf(placed)) !== null;
  await (isRunning ? copyRunning : copyLocked)(context, input, placed, { root, snapshot });
  crashPoint('steps.copy.made');
  await updateDisk(context.db, snapshot.id, { state: 'formatted' });
}

type Copied = { readonly root: Disk; readonly snapshot: Disk };

/**
 * Leaves the root disk to its guest. The copy is what a power cut at that moment would have left on the disk. A paused
 * guest whose keys are gone has them back for the copy.
 */
async function copyRunning(
  context: OperationContext,
  input: ServerInput,
  placed: PlacedServer,
  { root, snapshot }: Copied,
): Promise<void> {
  const copyDisk = (keys: DiskKeys) => placed.agent.copyRunningDisk(serverSpec(placed), root, snapshot, keys);
  await unlockPaused(context, input, 'snapshot');
  try {
    await context.keys.lend([snapshot], 'snapshot', input.requestId, copyDisk);
  } finally {
    await lockIfPaused(context, input);
  }
  await context.keys.close([snapshot], input.requestId);
}

/** Unlocks the root disk of a server that does not run for the copy alone; on any end both disks are locked again. */
async function copyLocked(
  context: OperationContext,
  { requestId }: ServerInput,
  { agent }: PlacedServer,
  { root, snapshot }: Copied,
): Promise<void> {
  const create = (keys: DiskKeys) => agent.createDisk(snapshot, { kind: 'disk', from: root }, keys);
  try {
    await context.keys.lend([root, snapshot], 'snapshot', requestId, create);
  } finally {
    await context.keys.close([root, snapshot], requestId);
  }
}

async function handOver(context: OperationContext, input: ServerInput): Promise<void> {
  await handOverKey(context, imageOf(input), snapshotOf(await loadPlaced(context, input.serverId)));
}

async function upload(context: OperationContext, input: ServerInput, tasks: ImageTasks): Promise<void> {
  const imageId = imageOf(input);
  const image = await context.images.describe(imageId);
  if (!image) throw deleted(imageId);
  if (image.status === 'active') return;
  await progress(context, input, tasks.pending);
  const placed = await loadPlaced(context, input.serverId);
  const bytes = await placed.agent.openMedium(snapshotOf(placed));
  await progress(context, input, tasks.upload);
  await context.images.upload(
    imageId,
    whileWanted(bytes, () => checkOurs(context, input)),
  );
}

async function checkOurs({ db }: OperationContext, input: ServerInput): Promise<void> {
  if ((await findServer(db, input.serverId))?.operation?.id !== input.operationId) throw takenOver(input);
}

/** Shows the task. @throws conflict when a delete has taken the server over: it waits for this operation to end. */
async function progress(context: OperationContext, input: ServerInput, task: TaskState): Promise<void> {
  if (!(await showProgress(context.db, input.serverId, input.operationId, task))) throw takenOver(input);
}

function snapshotOf({ server, disks }: PlacedServer): Disk {
  const snapshot = disks.find(isSnapshot);
  if (!snapshot) throw new Error(`server ${server.id} has no snapshot`);
  return snapshot;
}

function takenOver({ serverId }: ServerInput): NightlatchError {
  return new NightlatchError('conflict', {
    reason: `Making an image of server ${serverId} was ended by its deletion.`,
  });
}
