import { crashPoint } from '#core/crash-point.ts';
import type { VolumeStatus } from '#core/volume.ts';
import type { Queryable } from '#db/database.ts';
import { snapshotsOf } from '#db/snapshots.ts';
import type { PendingOperation } from '#db/tables/columns.ts';
import { type Attachment, attachmentsToServer, endAttachment } from '#db/volume-attachments.ts';
import { beginOnVolume, findVolume, lockVolumeIfThere, updateVolume, type Volume } from '#db/volumes.ts';
import type { OperationContext, ServerInput } from '#operations/context.ts';
import { pendingOn } from '#operations/engine.ts';
import type { VolumeInput } from '#operations/volume-context.ts';

/** Statuses of a volume that a server has. */
const HELD: readonly VolumeStatus[] = ['in-use', 'attaching', 'detaching', 'reserved'];

/**
 * Ends a server's attachments. Its guest is gone and its volumes are locked. They are available again, or, where the user
 * wished that, being deleted; one with snapshots is kept. One that another operation is about is given back by that.
 * *Repeat*: fine.
 */
export async function letVolumesGo(context: OperationContext, { serverId, requestId }: ServerInput): Promise<void> {
  for (const attachment of await attachmentsToServer(context.db, serverId)) {
    if (attachment.delete_on_termination) await awaitCreation(context, attachment);
    const deletion = await context.db.transaction().execute((tx) => letGo(tx, attachment, requestId));
    if (deletion === null) continue;
    crashPoint('steps.let-volumes-go.recorded');
    await context.engine.start(deletion.name, deletion.id, deletion.input);
  }
}

/** A volume that is still being made can be deleted only then. */
async function awaitCreation({ db, engine }: OperationContext, { volume_id }: Attachment): Promise<void> {
  const volume = await findVolume(db, volume_id);
  if (volume?.status === 'creating' && volume.operation) await engine.settled(volume.operation.id);
}

/** As one, so that no crash leaves a volume that its user believes deleted. */
async function letGo(tx: Queryable, attachment: Attachment, requestId: string): Promise<PendingOperation | null> {
  const volume = await lockVolumeIfThere(tx, attachment.volume_id);
  await endAttachment(tx, attachment.id);
  if (volume === null || volume.operation !== null) return null;
  if (attachment.delete_on_termination && (await canGo(tx, volume))) {
    const deletion = pendingOn<VolumeInput>('delete-volume', { volumeId: volume.id, requestId });
    await beginOnVolume(tx, volume, 'delete', deletion);
    return deletion;
  }
  if (HELD.includes(volume.status)) await updateVolume(tx, volume.id, { status: 'available', previous_status: null });
  return null;
}

async function canGo(tx: Queryable, { id, status }: Volume): Promise<boolean> {
  return (HELD.includes(status) || status === 'error') && (await snapshotsOf(tx, id)).length === 0;
}
