import type { Insertable, Selectable, Updateable } from 'kysely';
import { sql } from 'kysely';
import { NightlatchError, notFound } from '#core/errors.ts';
import type { ProjectId, SnapshotId, VolumeId } from '#core/ids.ts';
import { type SnapshotStatus, statusInWords } from '#core/volume.ts';
import type { Database, Queryable } from '#db/database.ts';
import type { Schema } from '#db/schema.ts';
import type { PendingOperation } from '#db/tables/columns.ts';

export type Snapshot = Selectable<Schema['snapshots']>;
export type NewSnapshot = Insertable<Schema['snapshots']>;
export type SnapshotChange = Omit<Updateable<Schema['snapshots']>, 'id' | 'operation'>;

export async function insertSnapshot(db: Queryable, snapshot: NewSnapshot): Promise<Snapshot> {
  return await db.insertInto('snapshots').values(snapshot).returningAll().executeTakeFirstOrThrow();
}

/** The snapshot, or null when there is none; a deleted one is still found. */
export async function findSnapshot(db: Queryable, id: SnapshotId): Promise<Snapshot | null> {
  return (await db.selectFrom('snapshots').selectAll().where('id', '=', id).executeTakeFirst()) ?? null;
}

/** Snapshots that are not deleted, newest first; of one project, or of all. */
export async function listSnapshots(db: Queryable, projectId: ProjectId | null): Promise<Snapshot[]> {
  let query = db.selectFrom('snapshots').selectAll().where('deleted_at', 'is', null);
  if (projectId !== null) query = query.where('project_id', '=', projectId);
  return await query.orderBy('created_at', 'desc').orderBy('id', 'desc').execute();
}

/** A volume's snapshots that are not deleted, oldest first. */
export async function snapshotsOf(db: Queryable, volumeId: VolumeId): Promise<Snapshot[]> {
  return await db
    .selectFrom('snapshots')
    .selectAll()
    .where('volume_id', '=', volumeId)
    .where('deleted_at', 'is', null)
    .orderBy('created_at')
    .execute();
}

export async function updateSnapshot(db: Queryable, id: SnapshotId, change: SnapshotChange): Promise<void> {
  await db
    .updateTable('snapshots')
    .set({ ...change, updated_at: new Date() })
    .where('id', '=', id)
    .execute();
}

/** The snapshot, which nobody else changes until the transaction ends. @throws not-found when there is none. */
export async function lockSnapshot(tx: Queryable, id: SnapshotId): Promise<Snapshot> {
  const snapshot = await tx.selectFrom('snapshots').selectAll().where('id', '=', id).forUpdate().executeTakeFirst();
  if (!snapshot || snapshot.deleted_at !== null) throw notFound('Snapshot', id);
  return snapshot;
}

/**
 * Claims a snapshot to delete it, in one of the statuses `from`. Of two callers at once exactly one succeeds.
 * @throws not-found (404); snapshot-state (400); what `plan` throws.
 */
export async function claimSnapshotForDeletion(
  db: Database,
  id: SnapshotId,
  from: readonly SnapshotStatus[],
  operation: PendingOperation,
): Promise<Snapshot> {
  return await db.transaction().execute(async (tx) => {
    const snapshot = await lockSnapshot(tx, id);
    if (!from.includes(snapshot.status) || snapshot.operation !== null) {
      const status = statusInWords(snapshot.status, from);
      const details = { snapshot: id, action: 'delete', allowed: from.join(' or '), status };
      throw new NightlatchError('snapshot-state', details);
    }
    const change = { status: 'deleting', operation: JSON.stringify(operation), updated_at: new Date() } as const;
    return await tx.updateTable('snapshots').set(change).where('id', '=', id).returningAll().executeTakeFirstOrThrow();
  });
}

/** An operation is about it from now on, in the status it has. The transaction has locked it. */
export async function beginOnSnapshot(tx: Queryable, id: SnapshotId, operation: PendingOperation): Promise<void> {
  const change = { operation: JSON.stringify(operation), updated_at: new Date() };
  await tx.updateTable('snapshots').set(change).where('id', '=', id).execute();
}

/** Ends an operation as `releaseVolume` does. */
export async function releaseSnapshot(
  db: Queryable,
  id: SnapshotId,
  operationId: string,
  change: SnapshotChange,
): Promise<boolean> {
  const result = await db
    .updateTable('snapshots')
    .set({ ...change, operation: null, updated_at: new Date() })
    .where('id', '=', id)
    .where(sql<string>`operation ->> 'id'`, '=', operationId)
    .executeTakeFirst();
  return result.numUpdatedRows > 0n;
}

/** Snapshots that an operation is under way on. */
export async function snapshotsInOperation(db: Queryable): Promise<Snapshot[]> {
  return await db.selectFrom('snapshots').selectAll().where('operation', 'is not', null).execute();
}

/** Operations under way that read this snapshot, oldest first: volumes being made from it. */
export async function snapshotReaders(db: Queryable, id: SnapshotId): Promise<PendingOperation[]> {
  const rows = await db
    .selectFrom('volumes')
    .select('operation')
    .where(sql<string>`source ->> 'kind'`, '=', 'snapshot')
    .where(sql<string>`source ->> 'id'`, '=', id)
    .where('operation', 'is not', null)
    .where('status', '=', 'creating')
    .orderBy('created_at')
    .orderBy('id')
    .execute();
  return rows.flatMap(({ operation }) => (operation === null ? [] : [operation]));
}
