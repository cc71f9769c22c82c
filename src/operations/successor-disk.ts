import { type DiskId, newId, type VolumeId } from '#core/ids.ts';
import type { Queryable } from '#db/database.ts';
import { type DiskRow, disksOf, insertDisks, nextGeneration, updateDisk } from '#db/disks.ts';
import type { OperationContext } from '#operations/context.ts';
import { needPlacedDisk, placedDiskOf } from '#operations/volume-context.ts';

/*
 * Another disk for a volume. Until the exchange the volume keeps the one it has: `coming` is made beside it, and after the
 * exchange the one before is `kept` until it is destroyed.
 */

/** How the disk that is coming differs from the one there is. */
export type SuccessorColumns = Partial<Pick<DiskRow, 'backend' | 'storage' | 'encrypted' | 'encryption' | 'image_id'>>;

/** Writes the row of the disk that is coming. *Repeat*: keeps the row. */
export async function planSuccessor(
  context: OperationContext,
  volumeId: VolumeId,
  columns: (tx: Queryable) => Promise<SuccessorColumns> = async () => ({}),
): Promise<void> {
  await context.db.transaction().execute(async (tx) => {
    const disks = await disksOf(tx, volumeId);
    const live = disks.find(({ standing }) => standing === 'live');
    if (!live || disks.some(({ standing }) => standing === 'coming')) return;
    const { created_at: _, ...like } = live;
    const own = { id: newId<DiskId>(), generation: await nextGeneration(tx, live), standing: 'coming' } as const;
    const fresh = { state: 'absent', secret_id: null, other_secret_id: null } as const;
    await insertDisks(tx, [{ ...like, ...(await columns(tx)), ...own, ...fresh }]);
  });
}

/** As one: at no instant has the volume two disks, or none. `also` writes what changes with it. *Repeat*: finds it done. */
export async function exchangeForSuccessor(
  context: OperationContext,
  volumeId: VolumeId,
  also: (tx: Queryable) => Promise<void> = async () => {},
): Promise<void> {
  const coming = await placedDiskOf(context, volumeId, 'coming');
  if (!coming) return;
  const { disk: live } = await needPlacedDisk(context, volumeId);
  await context.db.transaction().execute(async (tx) => {
    await updateDisk(tx, live.id, { standing: 'kept' });
    await updateDisk(tx, coming.disk.id, { standing: 'live' });
    await also(tx);
  });
}
