import { crashPoint } from '#core/crash-point.ts';
import type { DiskOwnerId, DiskStanding } from '#core/disk.ts';
import type { VolumeId } from '#core/ids.ts';
import { endUnplacedDisks, updateDisk } from '#db/disks.ts';
import { insertMessage } from '#db/messages.ts';
import type { PendingOperation } from '#db/tables/columns.ts';
import { attachmentOf } from '#db/volume-attachments.ts';
import { guestOf, loadIfPlaced, type OperationContext, type PlacedServer, serverSpec } from '#operations/context.ts';
import type { Failure, Step } from '#operations/engine.ts';
import { needPlacedDisk, needVolume, placedDiskOf, type VolumeInput } from '#operations/volume-context.ts';

/** Steps that operations on volumes and snapshots share. */

/** Makes and stores the key of an encrypted disk that has none. Undo destroys it, and ends the disk's row. */
export function storeVolumeKey<Input extends { readonly requestId: string }>(
  context: OperationContext,
  ownerOf: (input: Input) => DiskOwnerId,
  which: DiskStanding = 'live',
): Step<Input> {
  return {
    name: 'store-key',
    async run(input) {
      const { disk } = await needPlacedDisk(context, ownerOf(input), which);
      await context.keys.createKey(disk, input.requestId);
    },
    undo: (input) => destroyVolumeDisk(context, ownerOf(input), input.requestId, which),
  };
}

/**
 * Locks the disk, overwrites its header, removes it, destroys its key: in this order, as `destroyDisks` does. *Repeat*:
 * fine.
 */
export async function destroyVolumeDisk(
  context: OperationContext,
  owner: DiskOwnerId,
  requestId: string,
  which: DiskStanding = 'live',
) {
  const placed = await placedDiskOf(context, owner, which);
  if (!placed) return await endUnplacedDisks(context.db, owner);
  const { disk, agent } = placed;
  await agent.destroyDisk(disk);
  crashPoint('steps.destroy-volume-disk.removed');
  await context.keys.close([disk], requestId);
  await context.keys.destroyKey(disk, requestId);
  await updateDisk(context.db, disk.id, { state: 'destroyed', secret_id: null, other_secret_id: null });
}

/** Of several that read one source, oldest first: waits for those before the operation of this id, or for all. */
export async function settleThoseBefore(
  { engine }: OperationContext,
  readers: readonly PendingOperation[],
  operationId: string | null = null,
): Promise<void> {
  for (const { id } of readers) {
    if (id === operationId) return;
    await engine.settled(id);
  }
}

/** The server whose guest runs with this volume; null: none does, as while the server is rescued. */
export async function guestThatHas(context: OperationContext, volumeId: VolumeId): Promise<PlacedServer | null> {
  const attachment = await attachmentOf(context.db, volumeId);
  const placed = attachment?.server_id ? await loadIfPlaced(context, attachment.server_id) : null;
  if (!placed || !serverSpec(placed).volumes.some(({ disk }) => disk.ownerId === volumeId)) return null;
  return (await guestOf(placed)) === null ? null : placed;
}

/**
 * Calls `work` with the server whose guest runs with a volume; or with null, and then no guest starts with it until that has
 * ended.
 */
export function unlessOpen<T>(
  context: OperationContext,
  volumeId: VolumeId,
  work: (guest: PlacedServer | null) => Promise<T>,
): Promise<T> {
  return context.holds.unlessOpen(volumeId, () => guestThatHas(context, volumeId), work);
}

/** Tells its project that what was done to a volume failed. `event`: what, and why, in Cinder's numbers. */
export async function tellFailure(
  context: OperationContext,
  { volumeId, requestId }: Pick<VolumeInput, 'volumeId' | 'requestId'>,
  event: string,
  { message }: Pick<Failure, 'message'>,
): Promise<void> {
  const { project_id } = await needVolume(context, volumeId);
  const about = { resource_type: 'VOLUME', resource_uuid: volumeId } as const;
  await insertMessage(context.db, { ...about, project_id, request_id: requestId, event, text: message });
}
