import type { Insertable, Selectable, Updateable } from 'kysely';
import type { ProjectId, UserId } from '#core/ids.ts';
import type { Queryable } from '#db/database.ts';
import type { Schema } from '#db/schema.ts';

export type Project = Selectable<Schema['projects']>;
export type NewProject = Insertable<Schema['projects']>;
export type ProjectChange = Omit<Updateable<Schema['projects']>, 'id' | 'domain_id'>;

/** Adds a project. Null: the domain has one of that name already. */
export async function insertProject(db: Queryable, project: NewProject): Promise<Project | null> {
  const row = await db
    .insertInto('projects')
    .values(project)
    .onConflict((conflict) => conflict.columns(['domain_id', 'name']).doNothing())
    .returningAll()
    .executeTakeFirst();
  return row ?? null;
}

export async function findProject(db: Queryable, id: ProjectId): Promise<Project | null> {
  return (await db.selectFrom('projects').selectAll().where('id', '=', id).executeTakeFirst()) ?? null;
}

export async function findProjectByName(db: Queryable, name: string, domainId: string): Promise<Project | null> {
  const query = db.selectFrom('projects').selectAll().where('name', '=', name).where('domain_id', '=', domainId);
  return (await query.executeTakeFirst()) ?? null;
}

export type ProjectFilter = { readonly name?: string; readonly enabled?: boolean; readonly domainId?: string };

/** Projects by name. */
export async function listProjects(db: Queryable, filter: ProjectFilter = {}): Promise<Project[]> {
  let query = db.selectFrom('projects').selectAll();
  if (filter.name !== undefined) query = query.where('name', '=', filter.name);
  if (filter.enabled !== undefined) query = query.where('enabled', '=', filter.enabled);
  if (filter.domainId !== undefined) query = query.where('domain_id', '=', filter.domainId);
  return await query.orderBy('name').orderBy('id').execute();
}

/** Projects where the user has a role, by name. */
export async function listProjectsOfUser(db: Queryable, userId: UserId): Promise<Project[]> {
  return await db
    .selectFrom('projects')
    .selectAll()
    .where('id', 'in', (eb) => eb.selectFrom('role_assignments').select('project_id').where('user_id', '=', userId))
    .orderBy('name')
    .orderBy('id')
    .execute();
}

/** Changes a project. Null: there is none. *Throws* PostgreSQL's unique violation when the new name is taken. */
export async function updateProject(db: Queryable, id: ProjectId, change: ProjectChange): Promise<Project | null> {
  if (Object.keys(change).length === 0) return await findProject(db, id);
  return (await db.updateTable('projects').set(change).where('id', '=', id).returningAll().executeTakeFirst()) ?? null;
}

/** Removes a project with the tokens scoped to it and its role assignments. Returns whether there was one. */
export async function deleteProject(db: Queryable, id: ProjectId): Promise<boolean> {
  const result = await db.deleteFrom('projects').where('id', '=', id).executeTakeFirst();
  return result.numDeletedRows > 0n;
}
