import { setTimeout as sleep } from 'node:timers/promises';
import { sql } from 'kysely';
import { NightlatchError } from '#core/errors.ts';
import type { ServerId } from '#core/ids.ts';
import { findServer, lockServer, releaseServer } from '#db/servers.ts';
import { guestOf, loadIfPlaced, type OperationContext, type ServerInput } from '#operations/context.ts';
import { needVolume, type VolumeInput } from '#operations/volume-context.ts';

/*
 * A server is held by an operation on its volume while its guest must neither begin nor end by anybody's wish: the operation
 * is the server's own then. Only a delete takes it over.
 */

/** Nova's task state while block devices of a server change. */
const TASK = 'block_device_mapping';
const LOOK_EVERY_MS = 200;

/**
 * Holds a server; false: something is done to it, which has ended by now, so look again. *Repeat*: held once.
 * *Throws* conflict when a delete has taken it over and waits for this operation.
 */
export async function holdServer(context: OperationContext, input: VolumeInput, serverId: ServerId): Promise<boolean> {
  if (!(await isIdle(context, input, serverId))) return false;
  const { operation } = await needVolume(context, input.volumeId);
  return await context.db.transaction().execute(async (tx) => {
    const server = await lockServer(tx, serverId);
    if (server.operation?.id === input.operationId) return true;
    if (server.operation !== null || operation?.id !== input.operationId) return false;
    // An input for both: whoever goes on with what rows name may find it here first.
    const held = { ...operation, input: { ...input, serverId, after: null } };
    const change = { task_state: TASK, operation: JSON.stringify(held), updated_at: new Date() } as const;
    await tx.updateTable('servers').set(change).where('id', '=', serverId).execute();
    return true;
  });
}

/** Whether nothing else is done to a server. False: what was has ended by now, so look again. *Throws* as `holdServer`. */
export async function isIdle(context: OperationContext, input: VolumeInput, serverId: ServerId): Promise<boolean> {
  const other = (await findServer(context.db, serverId))?.operation ?? null;
  if (other === null || other.id === input.operationId) return true;
  if (await isTakenOver(context, input, serverId)) throw takenOver(input, serverId);
  await context.engine.settled(other.id);
  await sleep(LOOK_EVERY_MS);
  return false;
}

/** Whether a delete has taken the server over from this operation, and waits for it. */
export async function isTakenOver({ db }: OperationContext, { operationId }: VolumeInput, serverId: ServerId) {
  const other = (await findServer(db, serverId))?.operation ?? null;
  return other !== null && (other.input as ServerInput).after === operationId;
}

/**
 * Gives back the server that this operation holds, if it holds one; its guest goes on when it should. *Repeat*: fine. A crash
 * before it leaves the server held, which a repeat finds.
 */
export async function giveServerBack(context: OperationContext, { operationId }: VolumeInput): Promise<void> {
  const held = await context.db
    .selectFrom('servers')
    .select('id')
    .where(sql<string>`operation ->> 'id'`, '=', operationId)
    .executeTakeFirst();
  if (!held) return;
  const placed = await loadIfPlaced(context, held.id);
  const isPaused = placed !== null && (await guestOf(placed))?.state === 'paused';
  if (isPaused && placed.server.power_state !== 'paused') await placed.agent.unpauseServer(held.id);
  await releaseServer(context.db, held.id, operationId, {});
}

function takenOver({ volumeId }: VolumeInput, serverId: ServerId): NightlatchError {
  const reason = `Moving the data of volume ${volumeId} was ended by the deletion of server ${serverId}.`;
  return new NightlatchError('conflict', { reason });
}
