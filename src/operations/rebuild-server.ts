import { imagesToKeep } from '#db/disks.ts';
import { applyReplacement, findServer, releaseServer, replaced } from '#db/servers.ts';
import {
  contentOf,
  faultOf,
  finish,
  finishWithFault,
  loadPlaced,
  type OperationContext,
  type ServerInput,
} from '#operations/context.ts';
import type { Operation } from '#operations/engine.ts';
import { clearReplaced, exchange, isComing, planDisks, startIf, stopForExchange } from '#operations/replace-disks.ts';
import { cacheImages, createDisks, destroyDisks, storeKeys } from '#operations/steps.ts';

/**
 * Rebuild server: all its disks are replaced by fresh ones, made from an image while the guest still runs.
 *
 * | step         | effect                                              | compensation                       | a repeat       |
 * |--------------|-----------------------------------------------------|------------------------------------|----------------|
 * | clear        | leftovers of an operation that failed are gone      | none                               | fine           |
 * | plan         | room found; rows of the disks that come             | they are destroyed, rows ended     | keeps the rows |
 * | store-keys   | their secrets are stored                            | secrets destroyed                  | keeps secrets  |
 * | cache-image  | the image is on the host                            | none: a cache                      | finds it there |
 * | create-disks | media formatted and filled                          | destroyed                          | starts over the unfinished one |
 * | stop         | guest ended, all disks locked, leases closed        | guest runs again, if it ran        | fine           |
 * | exchange     | as one: new disks live, old kept; image, name, …    | none: the point of no return       | fine           |
 * | destroy-old  | old disks: headers overwritten, media, secrets gone | none                               | fine           |
 * | start        | leases open, the guest runs, unless it was off      | guest ended, locked, leases closed | finds it running |
 * | finish       | ACTIVE or SHUTOFF                                   | –                                  | same           |
 *
 * When it fails before the point of no return, the server is as it was, with a fault; after it, the new one is off.
 */
export function rebuildServer(context: OperationContext): Operation<ServerInput> {
  return {
    name: 'rebuild-server',
    steps: [
      clearReplaced(context),
      planDisks(context),
      storeKeys(context, isComing),
      cacheImages(context, isComing),
      createDisks(context, isComing, (server, disk) => contentOf(replaced(server), disk)),
      stopForExchange(context, 'rebuild_block_device_mapping'),
      { name: 'exchange', run: (input) => toNew(context, input) },
      { name: 'destroy-old', run: (input) => destroyOld(context, input) },
      startIf(context, 'rebuild_spawning', ({ vm_state }) => vm_state !== 'stopped'),
      { name: 'finish', run: (input) => finishRebuilt(context, input) },
    ],
    failed: async (input, failure) => {
      const server = await findServer(context.db, input.serverId);
      if (server?.vm_state !== 'error' || server.replacement === null) {
        return await finishWithFault(context, input, failure);
      }
      await releaseServer(context.db, input.serverId, input.operationId, { fault: faultOf(failure) });
    },
  };
}

async function toNew(context: OperationContext, input: ServerInput): Promise<void> {
  await exchange(context, input, { bringIn: 'coming', putAway: 'kept' }, async (tx, server) => {
    if (server.replacement === null) return null;
    await applyReplacement(tx, server, { old_flavor: null, old_vm_state: null });
    return replaced(server);
  });
}

/** The host keeps the old image only if somebody may still ask for it. */
async function destroyOld(context: OperationContext, input: ServerInput): Promise<void> {
  await destroyDisks(context, input, ({ standing }) => standing === 'kept');
  const { server, agent } = await loadPlaced(context, input.serverId);
  if (server.host) await agent.pruneImages(await imagesToKeep(context.db, server.host));
}

async function finishRebuilt(context: OperationContext, input: ServerInput): Promise<void> {
  const { server } = await loadPlaced(context, input.serverId);
  const change =
    server.vm_state === 'stopped'
      ? ({ vm_state: 'stopped', power_state: 'shutdown' } as const)
      : ({ vm_state: 'active', power_state: 'running' } as const);
  await finish(context, input, { ...change, launched_at: new Date() });
}
