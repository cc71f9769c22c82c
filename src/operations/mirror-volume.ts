import { setTimeout as sleep } from 'node:timers/promises';
import { crashPoint } from '#core/crash-point.ts';
import type { Disk } from '#core/disk.ts';
import { describeError, NightlatchError } from '#core/errors.ts';
import { findMigration, showMigrationProgress, showMigrationTrouble } from '#db/volume-migrations.ts';
import type { MirrorState } from '#host/host-agent.ts';
import type { OperationContext, PlacedServer } from '#operations/context.ts';
import { giveServerBack, holdServer, isIdle } from '#operations/hold-server.ts';
import { needPlacedDisk, type VolumeInput } from '#operations/volume-context.ts';

/*
 * Moving the data of a volume under the guest that has it. The guest has `from` until the moment it has `to`; what the rows
 * say is its disk is true at every instant:
 *
 * | moment                                | the guest runs with | rows  | both hold the same    |
 * |---------------------------------------|---------------------|-------|-----------------------|
 * | it is mirrored                        | from                | from  | no                    |
 * | the server is held, the guest paused  | –                   | from  | yes, but for what is not flushed |
 * | QEMU has made `to` its disk           | –                   | from  | yes, on their media   |
 * | the rows are exchanged                | –                   | to    | yes, on their media   |
 * | the guest goes on                     | to                  | to    | no                    |
 */

const LOOK_EVERY_MS = 500;
const ASK_AGAIN_MS = 1000;

/** `no-guest`: none, or it is not known what becomes of it. `lost`: nobody knows why the mirror ended. */
export type MirrorOutcome = 'ready' | 'no-guest' | 'lost';

/** The guest, and the disk it has with the one it is to have. */
export type Mirror = { readonly guest: PlacedServer; readonly from: Disk; readonly to: Disk };

/** What there is to mirror under this guest. */
export async function mirrorOf(context: OperationContext, input: VolumeInput, guest: PlacedServer): Promise<Mirror> {
  const { disk: from } = await needPlacedDisk(context, input.volumeId);
  const { disk: to } = await needPlacedDisk(context, input.volumeId, 'coming');
  return { guest, from, to };
}

/**
 * Mirrors until both sides hold the same, or goes on with it after a crash. `no-guest`, `lost`: the guest ended, or the mirror
 * did while it runs; the disk that is coming is locked then. *Repeat*: fine. *Throws* conflict once it is
 * cancelled; disk-full when that is why it ended.
 */
export async function mirrorUntilReady(
  context: OperationContext,
  input: VolumeInput,
  mirror: Mirror,
): Promise<MirrorOutcome> {
  const { guest, from, to } = mirror;
  const { agent, server } = guest;
  let state = await agent.mirrorState(server.id, { from, to });
  if (isDone(state)) return 'ready';
  // A crash in the middle of a switch may have left it held, its guest paused.
  await giveServerBack(context, input);
  // What ends a mirror on purpose, such as a suspend, has to be over before the next.
  if (!(await isIdle(context, input, server.id))) return 'no-guest';
  await checkUnlocked(guest);
  let speed = (await findMigration(context.db, input.volumeId))?.bytes_per_second ?? 0;
  await context.keys.lend([to], 'run', input.requestId, (keys) =>
    agent.mirrorDisk(server.id, { from, to }, keys, speed),
  );
  for (;;) {
    state = await agent.mirrorState(server.id, { from, to });
    if (isDone(state)) return 'ready';
    if (state.kind !== 'mirrored') {
      await agent.endMirror(server.id, { from, to });
      await context.keys.close([to], input.requestId);
      if (state.kind !== 'none' || !(await isIdle(context, input, server.id))) return 'no-guest';
      if (state.fullAt === null) return 'lost';
      const doing = `Mirroring volume ${input.volumeId}`;
      throw new NightlatchError('disk-full', { doing, where: state.fullAt });
    }
    const wished = await showMigrationProgress(context.db, input.volumeId, state);
    if (wished.isCancelled) throw cancelled(input);
    if (wished.bytesPerSecond !== speed) {
      speed = wished.bytesPerSecond;
      await agent.setMirrorSpeed(server.id, { from, to }, speed);
    }
    await sleep(LOOK_EVERY_MS);
  }
}

/**
 * Gives the guest the mirror, and calls `exchange` at the instant at which the rows are to say so. False: something else was
 * done to the server, or the guest ended: look again. *Repeat*: fine.
 */
export async function switchGuest(
  context: OperationContext,
  input: VolumeInput,
  { guest, from, to }: Mirror,
  exchange: () => Promise<void>,
): Promise<boolean> {
  const { agent, server } = guest;
  const disks = { from, to };
  if (!(await holdServer(context, input, server.id))) return false;
  let state = await agent.mirrorState(server.id, disks);
  const isLocked = (await agent.lockedWhilePaused(server.id)).length > 0;
  let failure: unknown = null;
  if (isDone(state) && !isLocked) {
    await agent.switchToMirror(server.id, disks).catch((error: unknown) => {
      failure = error;
    });
    state = await untilDone(context, input, () => agent.mirrorState(server.id, disks));
  }
  const isSwitched = state.kind === 'switched' && !isLocked;
  if (isSwitched) {
    crashPoint('steps.move-volume.switched');
    await untilDone(context, input, exchange);
    crashPoint('steps.move-volume.exchanged');
  }
  await giveServerBack(context, input);
  if (!isSwitched && failure !== null && state.kind !== 'no-guest') throw failure;
  return isSwitched;
}

/**
 * There is no way back, and nobody may guess which disk a guest has: until the host has told, and the rows say the same, the
 * guest does not go on, whatever the trouble is.
 */
async function untilDone<T>(context: OperationContext, input: VolumeInput, work: () => Promise<T>): Promise<T> {
  for (;;) {
    try {
      return await work();
    } catch (error) {
      const tell = () => showMigrationTrouble(context.db, input.volumeId, describeError(error));
      await tell().catch(() => {});
      await sleep(ASK_AGAIN_MS);
    }
  }
}

/** @throws conflict: what its keys were taken from can neither be read nor written. */
async function checkUnlocked({ agent, server }: PlacedServer): Promise<void> {
  if ((await agent.lockedWhilePaused(server.id)).length === 0) return;
  const reason = `Server ${server.id} is paused, and its host has forgotten its keys. Unpause it first.`;
  throw new NightlatchError('conflict', { reason });
}

function isDone(state: MirrorState): boolean {
  return state.kind === 'switched' || (state.kind === 'mirrored' && state.isReady);
}

export function cancelled({ volumeId }: VolumeInput): NightlatchError {
  return new NightlatchError('conflict', { reason: `Moving the data of volume ${volumeId} was cancelled.` });
}
