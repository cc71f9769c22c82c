import type { Insertable, Selectable } from 'kysely';
import { sql } from 'kysely';
import type { ProjectId } from '#core/ids.ts';
import type { Queryable } from '#db/database.ts';
import type { Schema } from '#db/schema.ts';

export type Flavor = Selectable<Schema['flavors']>;
export type NewFlavor = Insertable<Schema['flavors']>;

/** Who looks at flavors: a project sees public ones and those it was given; null sees all. */
export type FlavorViewer = ProjectId | null;

/** Stores a flavor. Says `id` or `name` when another flavor has it, and then stores nothing. */
export async function insertFlavor(db: Queryable, flavor: NewFlavor): Promise<Flavor | 'id' | 'name'> {
  const stored = await db
    .insertInto('flavors')
    .values(flavor)
    .onConflict((conflict) => conflict.doNothing())
    .returningAll()
    .executeTakeFirst();
  if (stored) return stored;
  const sameId = await db.selectFrom('flavors').select('id').where('id', '=', flavor.id).executeTakeFirst();
  return sameId ? 'id' : 'name';
}

/** The flavor, or null when there is none or the viewer may not see it. */
export async function findFlavor(db: Queryable, id: string, viewer: FlavorViewer): Promise<Flavor | null> {
  const query = db.selectFrom('flavors').selectAll().where('id', '=', id);
  return (await (viewer === null ? query : query.where(visibleTo(viewer))).executeTakeFirst()) ?? null;
}

/**
 * Flavors in the order of their ids. `public`: public ones and those the project was given; `private`: the others,
 * whoever has them; `all`: both.
 */
export async function listFlavors(
  db: Queryable,
  which: 'public' | 'private' | 'all',
  projectId: ProjectId,
): Promise<Flavor[]> {
  let query = db.selectFrom('flavors').selectAll().orderBy('id');
  if (which === 'public') query = query.where(visibleTo(projectId));
  if (which === 'private') query = query.where('is_public', '=', false);
  return await query.execute();
}

/** Changes a flavor's description. Returns the flavor, or null when there is none. */
export async function describeFlavor(db: Queryable, id: string, description: string | null): Promise<Flavor | null> {
  const changed = await db
    .updateTable('flavors')
    .set({ description })
    .where('id', '=', id)
    .returningAll()
    .executeTakeFirst();
  return changed ?? null;
}

/** Deletes a flavor and its access list; servers keep their copy of it. Returns whether there was one. */
export async function deleteFlavor(db: Queryable, id: string): Promise<boolean> {
  const { numDeletedRows } = await db.deleteFrom('flavors').where('id', '=', id).executeTakeFirst();
  return numDeletedRows > 0n;
}

/** Adds extra specs, replacing those of the same key. Returns whether there was such a flavor. */
export async function addExtraSpecs(
  db: Queryable,
  id: string,
  specs: Readonly<Record<string, string>>,
): Promise<boolean> {
  const { numUpdatedRows } = await db
    .updateTable('flavors')
    .set({ extra_specs: sql`extra_specs || ${JSON.stringify(specs)}::jsonb` })
    .where('id', '=', id)
    .executeTakeFirst();
  return numUpdatedRows > 0n;
}

/** Removes one extra spec. Returns whether the flavor had it. */
export async function removeExtraSpec(db: Queryable, id: string, key: string): Promise<boolean> {
  const { numUpdatedRows } = await db
    .updateTable('flavors')
    .set({ extra_specs: sql`extra_specs - ${key}::text` })
    .where('id', '=', id)
    .where(sql<boolean>`jsonb_exists(extra_specs, ${key})`)
    .executeTakeFirst();
  return numUpdatedRows > 0n;
}

/** The projects that were given a flavor, in order. */
export async function flavorProjects(db: Queryable, id: string): Promise<string[]> {
  const rows = await db
    .selectFrom('flavor_access')
    .select('project_id')
    .where('flavor_id', '=', id)
    .orderBy('project_id')
    .execute();
  return rows.map((row) => row.project_id);
}

/** Gives a flavor to a project. Returns false when the project already had it. */
export async function grantFlavor(db: Queryable, id: string, projectId: ProjectId): Promise<boolean> {
  const { numInsertedOrUpdatedRows } = await db
    .insertInto('flavor_access')
    .values({ flavor_id: id, project_id: projectId })
    .onConflict((conflict) => conflict.doNothing())
    .executeTakeFirst();
  return (numInsertedOrUpdatedRows ?? 0n) > 0n;
}

/** Takes a flavor from a project. Returns false when the project did not have it. */
export async function revokeFlavor(db: Queryable, id: string, projectId: ProjectId): Promise<boolean> {
  const { numDeletedRows } = await db
    .deleteFrom('flavor_access')
    .where('flavor_id', '=', id)
    .where('project_id', '=', projectId)
    .executeTakeFirst();
  return numDeletedRows > 0n;
}

function visibleTo(projectId: ProjectId) {
  return sql<boolean>`(is_public or exists (
    select from flavor_access where flavor_access.flavor_id = flavors.id and project_id = ${projectId}))`;
}
