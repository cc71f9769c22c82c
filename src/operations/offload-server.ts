import { NightlatchError } from '#core/errors.ts';
import { imagesToKeep, planSuccessors, promoteSuccessors } from '#db/disks.ts';
import { findServer, updateServer } from '#db/servers.ts';
import { finish, finishWithFault, loadIfPlaced, type OperationContext, type ServerInput } from '#operations/context.ts';
import type { Operation, Step } from '#operations/engine.ts';
import { imageOf } from '#operations/image-steps.ts';
import { destroyDisks } from '#operations/steps.ts';

/**
 * Offload server: a shelved server leaves its host; its root disk is an image now, and its other disks begin anew.
 *
 * | step    | effect                                                                           | compensation | a repeat |
 * |---------|----------------------------------------------------------------------------------|--------------|----------|
 * | offload | rows of the disks to come; headers overwritten, media gone, secrets destroyed; no host | none: the image is what is left | goes on where it was |
 * | finish  | SHELVED_OFFLOADED                                                                | –            | same     |
 */
export function offloadServer(context: OperationContext): Operation<ServerInput> {
  return {
    name: 'shelve-offload-server',
    steps: [offload(context), { name: 'finish', run: (input) => finish(context, input, OFFLOADED) }],
    failed: (input, failure) => finishWithFault(context, input, failure),
  };
}

export const OFFLOADED = { vm_state: 'shelved_offloaded', power_state: 'shutdown' } as const;

/** @throws conflict when the image is gone, before anything is destroyed. */
function offload(context: OperationContext): Step<ServerInput> {
  return { name: 'offload', run: (input) => offloadDisks(context, input) };
}

export async function offloadDisks(context: OperationContext, input: ServerInput): Promise<void> {
  const server = await findServer(context.db, input.serverId);
  // One that boots from a volume was shelved to no image.
  if (server?.image_id === null) return await leaveHost(context, input);
  const image = await context.images.describe(imageOf(input));
  if (image?.status !== 'active') {
    const reason = `Offloading server ${input.serverId} was not begun: image ${imageOf(input)}, to which it was shelved, is gone. Unshelve it.`;
    throw new NightlatchError('conflict', { reason });
  }
  await leaveHost(context, input);
}

/**
 * Destroys a server's disks on its host and takes it from there; rows of the disks it is to have next stay, of which the
 * root disk is made from the operation's image. *Repeat*: goes on where it was; a server without a host is fine.
 */
export async function leaveHost(context: OperationContext, input: ServerInput): Promise<void> {
  const { serverId } = input;
  const placed = await loadIfPlaced(context, serverId);
  if (!placed) return;
  await context.db.transaction().execute((tx) => planSuccessors(tx, serverId, input.imageId ?? null));
  await destroyDisks(context, input, (disk) => disk.standing !== 'coming');
  await placed.agent.forgetServer(serverId);
  if (placed.server.host) await placed.agent.pruneImages(await imagesToKeep(context.db, placed.server.host));
  await context.db.transaction().execute(async (tx) => {
    if ((await findServer(tx, serverId))?.host === null) return;
    await promoteSuccessors(tx, serverId);
    await updateServer(tx, serverId, { host: null });
  });
}
