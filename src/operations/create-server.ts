import { type EncryptionIntent, requiredTraits } from '#core/encryption-intent.ts';
import { GIB } from '#core/sizes.ts';
import type { Queryable } from '#db/database.ts';
import { disksOf, placeDisks } from '#db/disks.ts';
import { findServer, releaseServer, type Server, updateServer } from '#db/servers.ts';
import { faultOf, finish, type OperationContext, type ServerInput } from '#operations/context.ts';
import type { Operation } from '#operations/engine.ts';
import { findRoom } from '#operations/find-room.ts';
import { attachVolumes, awaitVolumes, finishAttaching, hostOfVolumes } from '#operations/server-volumes.ts';
import { cacheImages, createDisks, destroyDisks, startGuest, storeKeys } from '#operations/steps.ts';

/**
 * Create server. The rows of the server and its disks are durable before it begins.
 *
 * | step         | effect                                       | compensation                   | a repeat              |
 * |--------------|----------------------------------------------|--------------------------------|-----------------------|
 * | await-volumes | its volumes are made                        | they are given back, or deleted where its user wished that | fine |
 * | place        | host chosen, that of its volumes; disks get their place           | disks ended; the failed server shows where it was to go | keeps the choice |
 * | store-keys   | a secret per encrypted disk, `key-stored`    | secrets destroyed, disks ended | keeps stored secrets  |
 * | cache-image  | the image is on the host                     | none: a cache                  | finds it there        |
 * | create-disks | media formatted and filled, `formatted`      | headers overwritten, media gone | starts over the unfinished one |
 * | attach-volumes | its guest has its volumes when it runs     | it has not                     | same                  |
 * | start        | leases open, the guest runs                  | guest ended, locked, leases closed | finds it running  |
 * | finish       | volumes in-use, ACTIVE                       | –                              | same                  |
 */
export function createServer(context: OperationContext): Operation<ServerInput> {
  const all = () => true;
  return {
    name: 'create-server',
    steps: [
      awaitVolumes(context),
      {
        name: 'place',
        run: ({ serverId }) => place(context, serverId),
        undo: (input) => destroyDisks(context, input, all),
      },
      storeKeys(context, all),
      cacheImages(context, all),
      createDisks(context, all),
      attachVolumes(context),
      startGuest(context),
      { name: 'finish', run: (input) => finishCreated(context, input) },
    ],
    failed: async (input, failure) => {
      const change = { vm_state: 'error', power_state: 'nostate', fault: faultOf(failure) } as const;
      await releaseServer(context.db, input.serverId, input.operationId, change);
    },
  };
}

async function finishCreated(context: OperationContext, input: ServerInput): Promise<void> {
  await finishAttaching(context, input.serverId);
  await finish(context, input, { vm_state: 'active', power_state: 'running', launched_at: new Date() });
}

/** Chooses a server's host and gives its disks their place there. *Repeat*: keeps the choice. */
export async function place(context: OperationContext, serverId: Server['id']): Promise<void> {
  await context.db.transaction().execute(async (tx) => {
    const server = await findServer(tx, serverId);
    if (!server) throw new Error(`server ${serverId} has no row`);
    if (server.host) return;
    const near = await hostOfVolumes(tx, serverId);
    const host = await findRoom(tx, await demandOf(tx, server), near === null ? null : { id: serverId, host: near });
    await placeDisks(tx, serverId, {
      host: host.name,
      storage: host.storage,
      defaultFormat: host.default_encryption_format,
      undecidedFormat: host.undecided_encryption_format,
    });
    await updateServer(tx, serverId, { host: host.name, task_state: 'spawning' });
  });
}

async function demandOf(db: Queryable, server: Server) {
  const disks = await disksOf(db, server.id);
  const encrypted = disks.find((disk) => disk.encrypted);
  const intent: EncryptionIntent = { encrypted: encrypted !== undefined, format: encrypted?.encryption ?? null };
  return {
    traits: requiredTraits(intent),
    vcpus: server.flavor.vcpus,
    memoryMib: server.flavor.ramMib,
    diskGib: Math.ceil(disks.reduce((sum, disk) => sum + disk.size_bytes, 0) / GIB),
  };
}
