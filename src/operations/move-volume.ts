import { setTimeout as sleep } from 'node:timers/promises';
import { crashPoint } from '#core/crash-point.ts';
import { NightlatchError } from '#core/errors.ts';
import type { ServerId } from '#core/ids.ts';
import { isUnderWay } from '#core/volume-migration.ts';
import type { Queryable } from '#db/database.ts';
import { updateDisk } from '#db/disks.ts';
import { findServer } from '#db/servers.ts';
import { attachmentOf } from '#db/volume-attachments.ts';
import {
  findMigration,
  showMigrationProgress,
  showMigrationStatus,
  showMigrationTrouble,
} from '#db/volume-migrations.ts';
import type { VolumeChange } from '#db/volumes.ts';
import { guestOf, type OperationContext, type PlacedServer } from '#operations/context.ts';
import { copyDisk } from '#operations/create-volume.ts';
import { waitForReaders } from '#operations/delete-volume.ts';
import type { Failure, Operation, Step } from '#operations/engine.ts';
import { giveServerBack, holdServer, isTakenOver } from '#operations/hold-server.ts';
import { cancelled, mirrorOf, mirrorUntilReady, switchGuest } from '#operations/mirror-volume.ts';
import { onceHostAnswers } from '#operations/once-host-answers.ts';
import { exchangeForSuccessor, planSuccessor, type SuccessorColumns } from '#operations/successor-disk.ts';
import { finishAsBefore, needPlacedDisk, placedDiskOf, type VolumeInput } from '#operations/volume-context.ts';
import { destroyVolumeDisk, guestThatHas, storeVolumeKey } from '#operations/volume-steps.ts';

const LOOK_EVERY_MS = 500;
/** A mirror that ends although its guest goes on, as when the guest was rebooted, is begun again so often. */
const LOST_LIMIT = 3;

/** What differs between the operations that move a volume's data. */
export type Move = {
  readonly name: string;
  /** How the disk that is coming differs from the one there is; null: it may stay as it is. */
  readonly change: (tx: Queryable, input: VolumeInput) => Promise<SuccessorColumns | null>;
  /** What the volume's own row says once it has ended well, all at the instant at which its status does. */
  readonly columns: (tx: Queryable, input: VolumeInput) => Promise<VolumeChange>;
};

/**
 * Moves a volume's data to a disk made for that, under a key and a volume key of its own; the volume keeps the one it has until
 * then. Under a guest that has it the data is mirrored; otherwise it is copied while no guest can begin. Every step waits for a
 * host that does not answer, for as long as it takes: what was begun there goes on.
 *
 * | step      | effect                                              | compensation                    | a repeat         |
 * |-----------|-----------------------------------------------------|---------------------------------|------------------|
 * | wait      | what is being made from it has ended                | –                               | fine             |
 * | plan      | what an earlier one left is destroyed; a row for the disk that is coming, if there must be another | the row ended | another row |
 * | store-key | its secret is stored                                | secret destroyed                | keeps the secret |
 * | move      | it holds what the volume holds, and is the volume's, also to its guest | mirror ended, header overwritten, medium gone; after the exchange none: the point of no return | goes on with a mirror, starts a copy over |
 * | remove    | the one before and its secret are destroyed         | none: the next plan, or the volume's deletion, tries again | fine |
 * | finish    | the status it had, and what else its row says now   | –                               | same             |
 */
export function moveVolume(context: OperationContext, move: Move): Operation<VolumeInput> {
  const patiently = (work: (input: VolumeInput) => Promise<void>) => (input: VolumeInput) =>
    onceHostAnswers(
      () => work(input),
      (reason) => showMigrationTrouble(context.db, input.volumeId, reason),
    );
  const undo = patiently((input) => discard(context, input));
  const storeKey = storeVolumeKey(context, ({ volumeId }: VolumeInput) => volumeId, 'coming');
  const steps: Step<VolumeInput>[] = [
    waitForReaders(context),
    { name: 'plan', run: patiently((input) => plan(context, input, move)), undo },
    {
      name: 'store-key',
      undo,
      run: async (input) => {
        if (await placedDiskOf(context, input.volumeId, 'coming')) await storeKey.run(input);
      },
    },
    { name: 'move', run: patiently((input) => moveData(context, input)), undo },
    {
      name: 'remove',
      run: patiently(({ volumeId, requestId }) => destroyVolumeDisk(context, volumeId, requestId, 'kept')),
    },
    { name: 'finish', run: patiently((input) => finish(context, input, move, null)) },
  ];
  const failed = (input: VolumeInput, failure: Failure) =>
    patiently(() => finish(context, input, move, failure))(input);
  return { name: move.name, steps, failed };
}

async function plan(context: OperationContext, input: VolumeInput, { change }: Move): Promise<void> {
  const { volumeId, requestId } = input;
  await discard(context, input);
  await destroyVolumeDisk(context, volumeId, requestId, 'kept');
  const columns = await context.db.transaction().execute((tx) => change(tx, input));
  if (columns !== null) await planSuccessor(context, volumeId, async () => columns);
}

async function moveData(context: OperationContext, input: VolumeInput): Promise<void> {
  const { volumeId } = input;
  const { db } = context;
  // Either it was exchanged before a crash, or there is no other disk.
  if (!(await placedDiskOf(context, volumeId, 'coming'))) return await giveServerBack(context, input);
  await db.transaction().execute((tx) => showMigrationStatus(tx, volumeId, 'running'));
  try {
    await mirrorOrCopy(context, input);
  } catch (error) {
    if (!(error instanceof NightlatchError && error.code === 'disk-full')) throw error;
    // Tried again it would write as much again.
    const reason = `no space left on ${error.details.where}`;
    throw new NightlatchError('volume-not-moved', { volume: volumeId, reason }, { cause: error });
  }
}

async function mirrorOrCopy(context: OperationContext, input: VolumeInput): Promise<void> {
  const { volumeId } = input;
  for (let lost = 0; lost <= LOST_LIMIT; ) {
    if ((await findMigration(context.db, volumeId))?.status === 'cancelling') throw cancelled(input);
    const guest = await guestThatHas(context, volumeId);
    if (guest === null) {
      if (await moveLocked(context, input)) return;
      continue;
    }
    const mirror = await mirrorOf(context, input, guest);
    const outcome = await mirrorUntilReady(context, input, mirror);
    if (outcome === 'lost') lost++;
    if (outcome === 'ready' && (await switchGuest(context, input, mirror, () => exchange(context, input)))) return;
    await sleep(LOOK_EVERY_MS);
  }
  const reason = 'its mirror ended again and again, as when a medium has errors; the log of libvirt may say why';
  throw new NightlatchError('volume-not-moved', { volume: volumeId, reason });
}

/** *Repeat*: fine. */
async function exchange(context: OperationContext, { volumeId }: VolumeInput): Promise<void> {
  const coming = await placedDiskOf(context, volumeId, 'coming');
  if (!coming) return;
  await exchangeForSuccessor(context, volumeId, async (tx) => {
    await updateDisk(tx, coming.disk.id, { state: 'formatted' });
    await showMigrationStatus(tx, volumeId, 'completing');
  });
}

/** False: something else was done to the server that has it: look again. A server that has it is held meanwhile. */
async function moveLocked(context: OperationContext, input: VolumeInput): Promise<boolean> {
  const serverId = (await attachmentOf(context.db, input.volumeId))?.server_id ?? null;
  if (serverId !== null && !(await holdServer(context, input, serverId))) return false;
  try {
    if ((await guestThatHas(context, input.volumeId)) !== null) return false;
    if (serverId !== null) await checkSavedMemory(context, input, serverId);
    await copyUnlessCancelled(context, input, serverId);
    crashPoint('steps.move-volume.copied');
    await exchange(context, input);
    return true;
  } finally {
    await giveServerBack(context, input);
  }
}

/** A suspended guest goes on with devices as they were: of the disk behind one only the place and the key may be others. */
async function checkSavedMemory(
  context: OperationContext,
  { volumeId }: VolumeInput,
  serverId: ServerId,
): Promise<void> {
  if ((await findServer(context.db, serverId))?.vm_state !== 'suspended') return;
  const { disk: from } = await needPlacedDisk(context, volumeId);
  const { disk: to } = await needPlacedDisk(context, volumeId, 'coming');
  if (from.storage === to.storage && from.encryption === to.encryption) return;
  const reason = `Moving the data of volume ${volumeId} was ended: server ${serverId} is suspended, and its saved memory does not fit the other kind of disk. Resume it first.`;
  throw new NightlatchError('conflict', { reason });
}

/** A copy ends early when the disk it goes to is destroyed: also when its server is deleted, which does not wait for it. */
async function copyUnlessCancelled(
  context: OperationContext,
  input: VolumeInput,
  serverId: ServerId | null,
): Promise<void> {
  const { disk: from } = await needPlacedDisk(context, input.volumeId);
  const { disk, agent } = await needPlacedDisk(context, input.volumeId, 'coming');
  let bytesPerSecond = (await findMigration(context.db, input.volumeId))?.bytes_per_second ?? 0;
  let isOver = false;
  let isCancelled = false;
  const watch = async () => {
    while (!isOver) {
      const progress = await agent.paceCopy(disk, bytesPerSecond);
      const wished = await showMigrationProgress(context.db, input.volumeId, progress);
      isCancelled ||= wished.isCancelled;
      isCancelled ||= serverId !== null && (await isTakenOver(context, input, serverId));
      if (isCancelled) await agent.destroyDisk(disk);
      ({ bytesPerSecond } = wished);
      await sleep(LOOK_EVERY_MS);
    }
  };
  const { requestId } = input;
  const copying = copyDisk(context, { from, disk, requestId, isNewKey: true, bytesPerSecond });
  const [copied, watched] = await Promise.allSettled([copying.finally(() => (isOver = true)), watch()]);
  if (isCancelled) throw cancelled(input);
  for (const outcome of [copied, watched]) if (outcome.status === 'rejected') throw outcome.reason;
}

/** A guest that has the disk that is coming already is not given the other one back: then the rows follow. */
async function discard(context: OperationContext, input: VolumeInput): Promise<void> {
  const { volumeId, requestId } = input;
  const coming = await placedDiskOf(context, volumeId, 'coming');
  const guest = coming && (await guestThatHas(context, volumeId));
  if (guest) {
    const { from, to } = await mirrorOf(context, input, guest);
    const { agent, server } = guest;
    if ((await agent.mirrorState(server.id, { from, to })).kind === 'switched') {
      await exchange(context, input);
      await giveServerBack(context, input);
      return await destroyVolumeDisk(context, volumeId, requestId, 'kept');
    }
    await agent.endMirror(server.id, { from, to });
  }
  await giveServerBack(context, input);
  if (coming) await destroyVolumeDisk(context, volumeId, requestId, 'coming');
  if (guest) await letGoOn(context, input, guest);
}

/** QEMU stops a guest whose write finds no room, which the disk that was coming may have taken. */
async function letGoOn(context: OperationContext, input: VolumeInput, guest: PlacedServer): Promise<void> {
  const isStopped = (await guestOf(guest))?.state === 'paused' && guest.server.power_state !== 'paused';
  if (isStopped && (await holdServer(context, input, guest.server.id))) await giveServerBack(context, input);
}

/**
 * As one: whoever sees the new type, or the new place, sees that it has ended. `failure`: nothing was moved, or the disk before
 * could not be destroyed.
 */
async function finish(
  context: OperationContext,
  input: VolumeInput,
  move: Move,
  failure: Failure | null,
): Promise<void> {
  const { volumeId } = input;
  await giveServerBack(context, input);
  await context.db.transaction().execute(async (tx) => {
    const migration = await findMigration(tx, volumeId);
    const isExchanged = failure === null || migration?.status === 'completing';
    if (migration && isUnderWay(migration.status)) {
      const status = isExchanged ? 'completed' : migration.status === 'cancelling' ? 'cancelled' : 'error';
      await showMigrationStatus(tx, volumeId, status, status === 'cancelled' ? null : (failure?.message ?? null));
    }
    await finishAsBefore({ ...context, db: tx }, input, isExchanged ? await move.columns(tx, input) : {});
  });
}
