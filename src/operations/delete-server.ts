import { imagesToKeep } from '#db/disks.ts';
import { findServer, releaseServer } from '#db/servers.ts';
import { attachmentsToServer, endAttachment } from '#db/volume-attachments.ts';
import { lockVolume, updateVolume } from '#db/volumes.ts';
import { faultOf, loadIfPlaced, type OperationContext, type ServerInput } from '#operations/context.ts';
import { beginVolumeDeletion } from '#operations/delete-volume.ts';
import type { Operation } from '#operations/engine.ts';
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

/** The guest is gone and its volumes are locked. One that another operation is about is given back by that. */
async function letVolumesGo(context: OperationContext, { serverId, requestId }: ServerInput): Promise<void> {
  for (const { id, volume_id, delete_on_termination } of await attachmentsToServer(context.db, serverId)) {
    const isFree = await context.db.transaction().execute(async (tx) => {
      const volume = await lockVolume(tx, volume_id);
      await endAttachment(tx, id);
      if (volume.operation !== null) return false;
      await updateVolume(tx, volume_id, { status: 'available', previous_status: null });
      return true;
    });
    if (isFree && delete_on_termination) await beginVolumeDeletion(context, volume_id, requestId, 'delete');
  }
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
