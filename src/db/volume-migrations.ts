import type { Selectable } from 'kysely';
import type { VolumeId } from '#core/ids.ts';
import { type MigrationKind, type MigrationStatus, shownMigrationStatus, underWay } from '#core/volume-migration.ts';
import type { Queryable } from '#db/database.ts';
import type { Schema } from '#db/schema.ts';
import { updateVolume } from '#db/volumes.ts';

export type VolumeMigration = Selectable<Schema['volume_migrations']>;

/** The one under way, or the last there was; null: never any. */
export async function findMigration(db: Queryable, volumeId: VolumeId): Promise<VolumeMigration | null> {
  const query = db.selectFrom('volume_migrations').selectAll().where('volume_id', '=', volumeId);
  return (await query.executeTakeFirst()) ?? null;
}

/** Writes down that one begins, in the place of the last. */
export async function beginMigration(
  tx: Queryable,
  volumeId: VolumeId,
  { kind, bytesPerSecond }: { readonly kind: MigrationKind; readonly bytesPerSecond: number },
): Promise<void> {
  const fresh = {
    ...({ kind, status: 'accepted', copied_bytes: null, total_bytes: null, reason: null } as const),
    bytes_per_second: bytesPerSecond,
    created_at: new Date(),
    updated_at: new Date(),
  };
  const insert = tx.insertInto('volume_migrations').values({ volume_id: volumeId, ...fresh });
  await insert.onConflict((conflict) => conflict.column('volume_id').doUpdateSet(fresh)).execute();
  await updateVolume(tx, volumeId, { migration_status: shownMigrationStatus.accepted });
}

/** Writes down how far it is; returns what is wished of it by now. */
export async function showMigrationProgress(
  db: Queryable,
  volumeId: VolumeId,
  progress: { readonly copiedBytes: number; readonly totalBytes: number } | null,
): Promise<{ readonly bytesPerSecond: number; readonly isCancelled: boolean }> {
  const { status, bytes_per_second } = await db
    .updateTable('volume_migrations')
    .set({
      copied_bytes: progress?.copiedBytes ?? null,
      total_bytes: progress?.totalBytes ?? null,
      updated_at: new Date(),
    })
    .where('volume_id', '=', volumeId)
    .returning(['status', 'bytes_per_second'])
    .executeTakeFirstOrThrow();
  return { bytesPerSecond: bytes_per_second, isCancelled: status === 'cancelling' };
}

/** Writes down how it is now, also where the volume shows it. One that is being cancelled stays so until it has ended. */
export async function showMigrationStatus(
  tx: Queryable,
  volumeId: VolumeId,
  status: MigrationStatus,
  reason: string | null = null,
): Promise<void> {
  const all = tx.updateTable('volume_migrations').set({ status, reason, updated_at: new Date() });
  const query = all.where('volume_id', '=', volumeId);
  await (status === 'running' ? query.where('status', '<>', 'cancelling') : query).execute();
  await updateVolume(tx, volumeId, { migration_status: shownMigrationStatus[status] });
}

/** Writes down what one that is under way waits for; null: for nothing any more. None under way: nothing. */
export async function showMigrationTrouble(db: Queryable, volumeId: VolumeId, reason: string | null): Promise<void> {
  const all = db.updateTable('volume_migrations').set({ reason, updated_at: new Date() });
  await all.where('volume_id', '=', volumeId).where('status', 'in', underWay).execute();
}

/** Wishes something of one that is under way; for one that has its other disk it comes too late. False: none is. */
export async function wishOfMigration(
  db: Queryable,
  volumeId: VolumeId,
  wish: { readonly status: 'cancelling' } | { readonly bytes_per_second: number },
): Promise<boolean> {
  const result = await db
    .updateTable('volume_migrations')
    .set({ ...wish, updated_at: new Date() })
    .where('volume_id', '=', volumeId)
    .where('status', 'in', ['accepted', 'running', 'cancelling'])
    .executeTakeFirst();
  return result.numUpdatedRows > 0n || (await findMigration(db, volumeId))?.status === 'completing';
}
