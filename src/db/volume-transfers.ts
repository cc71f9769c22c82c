import type { Insertable, Selectable } from 'kysely';
import type { ProjectId, TransferId, VolumeId } from '#core/ids.ts';
import type { Queryable } from '#db/database.ts';
import type { Schema } from '#db/schema.ts';

export type Transfer = Selectable<Schema['volume_transfers']>;

export async function insertTransfer(
  db: Queryable,
  transfer: Insertable<Schema['volume_transfers']>,
): Promise<Transfer> {
  return await db.insertInto('volume_transfers').values(transfer).returningAll().executeTakeFirstOrThrow();
}

/** The offer, or null when there is none; one that was accepted or withdrawn is not found. */
export async function findTransfer(db: Queryable, id: TransferId): Promise<Transfer | null> {
  const live = db.selectFrom('volume_transfers').selectAll().where('deleted_at', 'is', null);
  return (await live.where('id', '=', id).executeTakeFirst()) ?? null;
}

/** Offers that stand, oldest first; of one project, or of all. */
export async function listTransfers(db: Queryable, projectId: ProjectId | null): Promise<Transfer[]> {
  let query = db.selectFrom('volume_transfers').selectAll().where('deleted_at', 'is', null);
  if (projectId !== null) query = query.where('source_project_id', '=', projectId);
  return await query.orderBy('created_at').orderBy('id').execute();
}

/** Ends the offer of a volume; `recipient`: who accepted it, or null. *Repeat*: fine. */
export async function endTransfer(db: Queryable, volumeId: VolumeId, recipient: ProjectId | null): Promise<void> {
  await db
    .updateTable('volume_transfers')
    .set({ deleted_at: new Date(), accepted: recipient !== null, destination_project_id: recipient })
    .where('volume_id', '=', volumeId)
    .where('deleted_at', 'is', null)
    .execute();
}
