import { disksOf } from '#db/disks.ts';
import { findServer, releaseServer, updateServer } from '#db/servers.ts';
import { faultOf, finish, type OperationContext, type ServerInput } from '#operations/context.ts';
import { place } from '#operations/create-server.ts';
import type { Operation, Step } from '#operations/engine.ts';
import { leaveHost } from '#operations/offload-server.ts';
import { cacheImages, createDisks, startGuest, storeKeys } from '#operations/steps.ts';

const ACTIVE = { vm_state: 'active', power_state: 'running', shelved_image_id: null, shelved_at: null } as const;

/**
 * Unshelve server. One that left its host gets a host and its disks anew, the root disk from the image it was shelved to;
 * of one that did not, they are still there, and the first four steps find nothing to do.
 *
 * | step         | effect                                     | compensation                            | a repeat             |
 * |--------------|--------------------------------------------|-----------------------------------------|----------------------|
 * | place        | host chosen; disks get their place         | disks destroyed, no host, as before     | keeps the choice     |
 * | store-keys   | a secret per encrypted disk                | see place                               | keeps stored secrets |
 * | cache-image  | the image is on the host                   | none: a cache                           | finds it there       |
 * | create-disks | media formatted and filled                 | see place                               | starts over the unfinished one |
 * | start        | leases open, the guest runs                | guest ended, locked, leases closed      | finds it running     |
 * | finish       | the row says so; the image and its secret gone; ACTIVE | none                        | same                 |
 */
export function unshelveServer(context: OperationContext): Operation<ServerInput> {
  const all = () => true;
  return {
    name: 'unshelve-server',
    steps: [
      { name: 'place', run: (input) => placeAnew(context, input), undo: (input) => leaveAgain(context, input) },
      withoutUndo(storeKeys(context, all)),
      cacheImages(context, all),
      withoutUndo(createDisks(context, all)),
      startUnlessFinished(context),
      { name: 'finish', run: (input) => finishUnshelved(context, input) },
    ],
    failed: async (input, failure) => {
      await releaseServer(context.db, input.serverId, input.operationId, { fault: faultOf(failure) });
    },
  };
}

/** First it leaves the host that an earlier try could not take it from. */
async function placeAnew(context: OperationContext, input: ServerInput): Promise<void> {
  const disks = await disksOf(context.db, input.serverId);
  if (disks.some(({ standing }) => standing === 'coming')) await leaveAgain(context, input);
  await place(context, input.serverId);
}

/** The disks of a server that never left its host are its own, whatever failed. */
async function leaveAgain(context: OperationContext, input: ServerInput): Promise<void> {
  const server = await findServer(context.db, input.serverId);
  if (server?.vm_state === 'shelved_offloaded') await leaveHost(context, input);
}

/** The image goes when the row no longer names it: until then it is what the server can be made from again. */
async function finishUnshelved(context: OperationContext, input: ServerInput): Promise<void> {
  const server = await findServer(context.db, input.serverId);
  if (server?.operation?.id === input.operationId) await updateServer(context.db, server.id, ACTIVE);
  if (input.imageId !== undefined) await context.images.discard(input.imageId, input.requestId);
  await finish(context, input, { ...ACTIVE, launched_at: new Date() });
}

/** Once its row says that it runs, a failure to remove its image is no reason to end the guest. */
function startUnlessFinished(context: OperationContext): Step<ServerInput> {
  const { undo, ...start } = startGuest(context);
  return {
    ...start,
    async undo(input) {
      const server = await findServer(context.db, input.serverId);
      if (server?.vm_state !== 'active') await undo?.(input);
    },
  };
}

function withoutUndo({ name, run }: Step<ServerInput>): Step<ServerInput> {
  return { name, run };
}
