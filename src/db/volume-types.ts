import type { Insertable, Selectable, Updateable } from 'kysely';
import { sql } from 'kysely';
import type { ProjectId, VolumeTypeId } from '#core/ids.ts';
import type { VolumeEncryption } from '#core/volume.ts';
import { type Database, isDuplicate, type Queryable } from '#db/database.ts';
import type { Schema } from '#db/schema.ts';
import type { VolumeTypeEncryption } from '#db/tables/volume-types.ts';
import { forgetTypeQuotas, renameTypeQuotas } from '#db/volume-quotas.ts';

export type { VolumeTypeEncryption };
export type VolumeType = Selectable<Schema['volume_types']>;
export type NewVolumeType = Insertable<Schema['volume_types']>;
export type VolumeTypeChange = Pick<Updateable<Schema['volume_types']>, 'name' | 'description' | 'is_public'>;

/** Who looks at volume types: a project sees public ones and those it was given; null sees all. */
export type TypeViewer = ProjectId | null;

/** Stores a volume type. Null: another has its name, and nothing was stored. */
export async function insertVolumeType(db: Queryable, type: NewVolumeType): Promise<VolumeType | null> {
  const query = db
    .insertInto('volume_types')
    .values(type)
    .onConflict((conflict) => conflict.doNothing());
  return (await query.returningAll().executeTakeFirst()) ?? null;
}

/** The volume type, or null when there is none or the viewer may not see it. */
export async function findVolumeType(db: Queryable, id: string, viewer: TypeViewer): Promise<VolumeType | null> {
  const query = db
    .selectFrom('volume_types')
    .selectAll()
    .where('id', '=', id as VolumeTypeId);
  return (await (viewer === null ? query : query.where(visibleTo(viewer))).executeTakeFirst()) ?? null;
}

/** As `findVolumeType`, by id or by name; an id goes first. */
export async function findVolumeTypeNamed(
  db: Queryable,
  nameOrId: string,
  viewer: TypeViewer,
): Promise<VolumeType | null> {
  const byId = await findVolumeType(db, nameOrId, viewer);
  if (byId) return byId;
  const query = db.selectFrom('volume_types').selectAll().where('name', '=', nameOrId);
  return (await (viewer === null ? query : query.where(visibleTo(viewer))).executeTakeFirst()) ?? null;
}

/**
 * The volume type as it is, which nobody changes, deletes or encrypts otherwise until the transaction ends; null: it is
 * gone. Who makes a volume of a type holds it, so that "in use" is true or false and never about to change.
 */
export async function holdVolumeType(tx: Queryable, id: VolumeTypeId): Promise<VolumeType | null> {
  return (await tx.selectFrom('volume_types').selectAll().where('id', '=', id).forShare().executeTakeFirst()) ?? null;
}

/**
 * Volume types, newest first. `public`: public ones and those the project was given; `private`: the others, whoever has
 * them; `all`: both.
 */
export async function listVolumeTypes(
  db: Queryable,
  which: 'public' | 'private' | 'all',
  projectId: ProjectId,
): Promise<VolumeType[]> {
  let query = db.selectFrom('volume_types').selectAll().orderBy('created_at', 'desc').orderBy('id');
  if (which === 'public') query = query.where(visibleTo(projectId));
  if (which === 'private') query = query.where('is_public', '=', false);
  return await query.execute();
}

/** Changes a volume type. Null: it is gone. `name`: another has that name, and nothing was changed. */
export async function updateVolumeType(
  db: Database,
  id: VolumeTypeId,
  change: VolumeTypeChange,
): Promise<VolumeType | 'name' | null> {
  const work = db.transaction().execute(async (tx) => {
    const type = await lockVolumeType(tx, id);
    if (!type) return null;
    if (change.name !== undefined) await renameTypeQuotas(tx, type.name, change.name);
    return await write(tx, id, change);
  });
  return await work.catch((error: unknown) => {
    if (isDuplicate(error)) return 'name';
    throw error;
  });
}

/** Deletes a volume type, its encryption, access list and quotas. Null: there was none. */
export async function deleteVolumeType(db: Database, id: VolumeTypeId): Promise<'deleted' | 'in-use' | null> {
  return await db.transaction().execute(async (tx) => {
    const type = await lockVolumeType(tx, id);
    if (!type) return null;
    if (await isTypeInUse(tx, id)) return 'in-use';
    await tx.deleteFrom('volume_types').where('id', '=', id).execute();
    await forgetTypeQuotas(tx, type.name);
    return 'deleted';
  });
}

/** What to make of a type that no volume uses: the columns to write, or null for nothing. */
export type UnusedChange = (
  type: VolumeType,
) => Pick<Updateable<Schema['volume_types']>, 'encryption' | 'extra_specs'> | null;

/**
 * Changes what may change only while no volume is of the type: its extra specs or its encryption. Null: there is no such
 * type. What `change` throws, the caller gets, and nothing was changed.
 */
export async function changeUnusedType(
  db: Database,
  id: VolumeTypeId,
  change: UnusedChange,
): Promise<'changed' | 'unchanged' | 'in-use' | null> {
  return await db.transaction().execute(async (tx) => {
    const type = await lockVolumeType(tx, id);
    if (!type) return null;
    if (await isTypeInUse(tx, id)) return 'in-use';
    const columns = change(type);
    if (columns === null) return 'unchanged';
    await write(tx, id, columns);
    return 'changed';
  });
}

/** How volumes of a type are encrypted, without what is noted about that; null: they are not. */
export function encryptionOf({ encryption }: Pick<VolumeType, 'encryption'>): VolumeEncryption | null {
  if (encryption === null) return null;
  const { provider, cipher, keySize, controlLocation } = encryption;
  return { provider, cipher, keySize, controlLocation };
}

/** The name of every volume type, by its id. */
export async function typeNames(db: Queryable): Promise<ReadonlyMap<VolumeTypeId, string>> {
  const rows = await db.selectFrom('volume_types').select(['id', 'name']).execute();
  return new Map(rows.map(({ id, name }) => [id, name]));
}

/** Whether a volume that is not deleted is of this type, or is about to be, in whichever project. */
export async function isTypeInUse(db: Queryable, id: VolumeTypeId): Promise<boolean> {
  const coming = sql<string>`operation -> 'input' -> 'retype' ->> 'typeId'`;
  const all = db.selectFrom('volumes').select('id').where('deleted_at', 'is', null);
  const volume = all.where((eb) => eb.or([eb('volume_type_id', '=', id), eb(coming, '=', id)]));
  return (await volume.limit(1).executeTakeFirst()) !== undefined;
}

/** The projects that were given a volume type, in order. */
export async function typeProjects(db: Queryable, id: VolumeTypeId): Promise<ProjectId[]> {
  const query = db.selectFrom('volume_type_access').select('project_id').where('volume_type_id', '=', id);
  return (await query.orderBy('project_id').execute()).map((row) => row.project_id);
}

/** Gives a volume type to a project. Returns false when the project already had it. */
export async function grantVolumeType(db: Queryable, id: VolumeTypeId, projectId: ProjectId): Promise<boolean> {
  const { numInsertedOrUpdatedRows } = await db
    .insertInto('volume_type_access')
    .values({ volume_type_id: id, project_id: projectId })
    .onConflict((conflict) => conflict.doNothing())
    .executeTakeFirst();
  return (numInsertedOrUpdatedRows ?? 0n) > 0n;
}

/** Takes a volume type from a project. Returns false when the project did not have it. */
export async function revokeVolumeType(db: Queryable, id: VolumeTypeId, projectId: ProjectId): Promise<boolean> {
  const { numDeletedRows } = await db
    .deleteFrom('volume_type_access')
    .where('volume_type_id', '=', id)
    .where('project_id', '=', projectId)
    .executeTakeFirst();
  return numDeletedRows > 0n;
}

async function lockVolumeType(tx: Queryable, id: VolumeTypeId): Promise<VolumeType | undefined> {
  return await tx.selectFrom('volume_types').selectAll().where('id', '=', id).forUpdate().executeTakeFirst();
}

async function write(
  tx: Queryable,
  id: VolumeTypeId,
  columns: Updateable<Schema['volume_types']>,
): Promise<VolumeType> {
  return await tx
    .updateTable('volume_types')
    .set({ ...columns, updated_at: new Date() })
    .where('id', '=', id)
    .returningAll()
    .executeTakeFirstOrThrow();
}

function visibleTo(projectId: ProjectId) {
  return sql<boolean>`(is_public or exists (
    select from volume_type_access where volume_type_id = volume_types.id and project_id = ${projectId}))`;
}
