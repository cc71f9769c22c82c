import type { Insertable, Selectable, Updateable } from 'kysely';
import { sql } from 'kysely';
import { notFound } from '#core/errors.ts';
import type { ProjectId, SecretId, VolumeId } from '#core/ids.ts';
import { checkVolumeAction, type VolumeAction, volumeActions } from '#core/volume.ts';
import type { Database, Queryable } from '#db/database.ts';
import type { Schema } from '#db/schema.ts';
import type { PendingOperation } from '#db/tables/columns.ts';

export type Volume = Selectable<Schema['volumes']>;
export type NewVolume = Insertable<Schema['volumes']>;
export type VolumeChange = Omit<Updateable<Schema['volumes']>, 'id' | 'operation'>;

export async function insertVolume(db: Queryable, volume: NewVolume): Promise<Volume> {
  return await db.insertInto('volumes').values(volume).returningAll().executeTakeFirstOrThrow();
}

/** The volume, or null when there is none; a deleted one is still found. */
export async function findVolume(db: Queryable, id: VolumeId): Promise<Volume | null> {
  return (await db.selectFrom('volumes').selectAll().where('id', '=', id).executeTakeFirst()) ?? null;
}

/** Volumes that are not deleted, newest first; of one project, or of all. */
export async function listVolumes(db: Queryable, projectId: ProjectId | null): Promise<Volume[]> {
  let query = db.selectFrom('volumes').selectAll().where('deleted_at', 'is', null);
  if (projectId !== null) query = query.where('project_id', '=', projectId);
  return await query.orderBy('created_at', 'desc').orderBy('id', 'desc').execute();
}

/** The secrets of those volumes that have one. */
export async function volumeSecrets(
  db: Queryable,
  volumes: readonly VolumeId[],
): Promise<ReadonlyMap<VolumeId, SecretId>> {
  if (volumes.length === 0) return new Map();
  const rows = await db
    .selectFrom('disks')
    .select(['owner_id', 'secret_id'])
    .where('owner_id', 'in', [...volumes])
    .where('standing', '=', 'live')
    .where('state', '<>', 'destroyed')
    .execute();
  return new Map(
    rows.flatMap(({ owner_id, secret_id }) => (secret_id === null ? [] : [[owner_id as VolumeId, secret_id]])),
  );
}

export async function updateVolume(db: Queryable, id: VolumeId, change: VolumeChange): Promise<void> {
  await db
    .updateTable('volumes')
    .set({ ...change, updated_at: new Date() })
    .where('id', '=', id)
    .execute();
}

/** The volume, which nobody else changes until the transaction ends. @throws not-found when there is none. */
export async function lockVolume(tx: Queryable, id: VolumeId): Promise<Volume> {
  const volume = await lockVolumeIfThere(tx, id);
  if (volume === null) throw notFound('Volume', id);
  return volume;
}

/** As `lockVolume`; null: there is none, or it is deleted. */
export async function lockVolumeIfThere(tx: Queryable, id: VolumeId): Promise<Volume | null> {
  const volume = await tx.selectFrom('volumes').selectAll().where('id', '=', id).forUpdate().executeTakeFirst();
  return volume && volume.deleted_at === null ? volume : null;
}

/**
 * Claims a volume for an action: sets its status and pending operation, if the action is allowed in the status it has at
 * that instant. Of two callers at once exactly one succeeds. `plan` writes what else has to be there when the operation
 * begins, in the same transaction; what it throws, the caller gets, and nothing was written.
 * @throws not-found (404); volume-state (400).
 */
export async function claimVolume(
  db: Database,
  id: VolumeId,
  action: VolumeAction,
  operation: PendingOperation,
  plan: (tx: Queryable, volume: Volume) => Promise<void> = async () => {},
): Promise<Volume> {
  return await db.transaction().execute(async (tx) => {
    const volume = await lockVolume(tx, id);
    checkVolumeAction(action, { id, status: volume.status, isBusy: volume.operation !== null });
    await plan(tx, volume);
    return await beginOnVolume(tx, volume, action, operation);
  });
}

/** As `claimVolume`, of a volume that the transaction has locked and whose status its caller has judged. */
export async function beginOnVolume(
  tx: Queryable,
  { id, status }: Volume,
  action: VolumeAction,
  operation: PendingOperation,
): Promise<Volume> {
  const { during } = volumeActions[action];
  const statuses = during === null ? {} : { status: during, previous_status: status };
  const change = { ...statuses, operation: JSON.stringify(operation), updated_at: new Date() };
  return await tx.updateTable('volumes').set(change).where('id', '=', id).returningAll().executeTakeFirstOrThrow();
}

/**
 * Ends an operation: applies `change` and clears the pending operation, only if that operation is still the volume's.
 * Returns whether it was.
 */
export async function releaseVolume(
  db: Queryable,
  id: VolumeId,
  operationId: string,
  change: VolumeChange,
): Promise<boolean> {
  const result = await db
    .updateTable('volumes')
    .set({ ...change, operation: null, updated_at: new Date() })
    .where('id', '=', id)
    .where(sql<string>`operation ->> 'id'`, '=', operationId)
    .executeTakeFirst();
  return result.numUpdatedRows > 0n;
}

/** Volumes that an operation is under way on. */
export async function volumesInOperation(db: Queryable): Promise<Volume[]> {
  return await db.selectFrom('volumes').selectAll().where('operation', 'is not', null).execute();
}

/** Operations under way that read this volume, oldest first: what is being made from it. */
export async function readersOf(db: Queryable, id: VolumeId): Promise<PendingOperation[]> {
  const volumes = await db
    .selectFrom('volumes')
    .select(['operation', 'created_at', 'id'])
    .where(sql<string>`source ->> 'kind'`, '=', 'volume')
    .where(sql<string>`source ->> 'id'`, '=', id)
    .where('operation', 'is not', null)
    .where('status', '=', 'creating')
    .execute();
  const snapshots = await db
    .selectFrom('snapshots')
    .select(['operation', 'created_at', 'id'])
    .where('volume_id', '=', id)
    .where('operation', 'is not', null)
    .where('status', '=', 'creating')
    .execute();
  const readers = [...volumes, ...snapshots].sort(
    (a, b) => a.created_at.getTime() - b.created_at.getTime() || (a.id < b.id ? -1 : 1),
  );
  return readers.flatMap(({ operation }) => (operation === null ? [] : [operation]));
}
