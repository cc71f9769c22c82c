import { imagesToKeep } from '#db/disks.ts';
import { findServer, releaseServer } from '#db/servers.ts';
import { faultOf, loadIfPlaced, type OperationContext, type ServerInput } from '#operations/context.ts';
import type { Operation } from '#operations/engine.ts';
import { letVolumesGo } from '#operations/let-volumes-go.ts';
import { destroyDisks, stopGuest, takeOver } from '#operations/steps.ts';

/**
 * Delete server, from any state and also out of another operation. Its time does not grow with the disks.
 *
 * | step          | effect                                              | compensation | a repeat |
 * |---------------|-----------------------------------------------------|--------------|----------|
 * | take-over     | waits for the operation it interrupts               | –            | fine     |
 * | stop          | guest ended, all disks locked, leases closed        | none         | fine     |
 * | destroy-disks | headers overwritten, media gone, secrets destroyed  | none: there is no way back from here | fine |
 * | let-go        | its volumes are available again, or being deleted where its user wished that | none | fine |
 * | forget        | console, folder, images nobody uses and the one it was shelved to gone; DELETED | –           | fine     |
 *
 * When a step keeps failing the server ends in ERROR with a fault, and can be deleted again.
 */
export function deleteServer(context: OperationContext): Operation<ServerInput> {
  return {
    name: 'delete-server',
    steps: [
      takeOver(context),
      stopGuest(context, 0),
      { name: 'destroy-disks', run: (input) => destroyDisks(context, input, () => true) },
      { name: 'let-go', run: (input) => letVolumesGo(context, input) },
      { name: 'forget', run: (input) => forget(context, input) },
    ],
    failed: async (input, failure) => {
      const change = { vm_state: 'error', power_state: 'nostate', fault: faultOf(failure) } as const;
      await releaseServer(context.db, input.serverId, input.operationId, change);
    },
  };
}

async function forget(context: OperationContext, { serverId, operationId, requestId }: ServerInput): Promise<void> {
  const shelvedTo = (await findServer(context.db, serverId))?.shelved_image_id;
  if (shelvedTo) await context.images.discard(shelvedTo, requestId);
  const placed = await loadIfPlaced(context, serverId);
  await placed?.agent.forgetServer(serverId);
  if (placed?.server.host) await placed.agent.pruneImages(await imagesToKeep(context.db, placed.server.host));
  await releaseServer(context.db, serverId, operationId, {
    vm_state: 'deleted',
    power_state: 'nostate',
    user_data: null,
    terminated_at: new Date(),
  });
}
