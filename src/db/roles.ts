import type { Selectable } from 'kysely';
import type { ProjectId, UserId } from '#core/ids.ts';
import type { Queryable } from '#db/database.ts';
import type { Schema } from '#db/schema.ts';

export type Role = Selectable<Schema['roles']>;

/** Adds a role. Null: there is one of that name already. */
export async function insertRole(db: Queryable, role: Role): Promise<Role | null> {
  const row = await db
    .insertInto('roles')
    .values(role)
    .onConflict((conflict) => conflict.column('name').doNothing())
    .returningAll()
    .executeTakeFirst();
  return row ?? null;
}

export async function findRole(db: Queryable, id: string): Promise<Role | null> {
  return (await db.selectFrom('roles').selectAll().where('id', '=', id).executeTakeFirst()) ?? null;
}

/** Roles by name; all, or the one of this name. */
export async function listRoles(db: Queryable, name?: string): Promise<Role[]> {
  let query = db.selectFrom('roles').selectAll();
  if (name !== undefined) query = query.where('name', '=', name);
  return await query.orderBy('name').execute();
}

/** Removes a role with its assignments. Returns whether there was one. */
export async function deleteRole(db: Queryable, id: string): Promise<boolean> {
  const result = await db.deleteFrom('roles').where('id', '=', id).executeTakeFirst();
  return result.numDeletedRows > 0n;
}

/** Gives a user a role in a project. *Repeat*: fine. */
export async function assignRole(db: Queryable, userId: UserId, projectId: ProjectId, roleId: string): Promise<void> {
  await db
    .insertInto('role_assignments')
    .values({ user_id: userId, project_id: projectId, role_id: roleId })
    .onConflict((conflict) => conflict.doNothing())
    .execute();
}

/** Takes a role away. Returns whether the user had it. */
export async function unassignRole(
  db: Queryable,
  userId: UserId,
  projectId: ProjectId,
  roleId: string,
): Promise<boolean> {
  const result = await db
    .deleteFrom('role_assignments')
    .where('user_id', '=', userId)
    .where('project_id', '=', projectId)
    .where('role_id', '=', roleId)
    .executeTakeFirst();
  return result.numDeletedRows > 0n;
}

/** Roles a user was given in a project, by name; implied ones are not among them. */
export async function listRolesOfUser(db: Queryable, userId: UserId, projectId: ProjectId): Promise<Role[]> {
  return await db
    .selectFrom('roles')
    .innerJoin('role_assignments', 'role_assignments.role_id', 'roles.id')
    .where('user_id', '=', userId)
    .where('project_id', '=', projectId)
    .select(['roles.id', 'roles.name'])
    .orderBy('roles.name')
    .execute();
}

export type AssignmentFilter = { readonly userId?: string; readonly projectId?: string; readonly roleId?: string };
export type Assignment = {
  readonly userId: UserId;
  readonly userName: string;
  readonly projectId: ProjectId;
  readonly projectName: string;
  readonly roleId: string;
  readonly roleName: string;
};

/** Who has which role where, with names. */
export async function listAssignments(db: Queryable, filter: AssignmentFilter): Promise<Assignment[]> {
  let query = db
    .selectFrom('role_assignments as a')
    .innerJoin('users as u', 'u.id', 'a.user_id')
    .innerJoin('projects as p', 'p.id', 'a.project_id')
    .innerJoin('roles as r', 'r.id', 'a.role_id');
  if (filter.userId !== undefined) query = query.where('u.id', '=', filter.userId as UserId);
  if (filter.projectId !== undefined) query = query.where('p.id', '=', filter.projectId as ProjectId);
  if (filter.roleId !== undefined) query = query.where('r.id', '=', filter.roleId);
  return await query
    .select(['u.id as userId', 'u.name as userName', 'p.id as projectId', 'p.name as projectName'])
    .select(['r.id as roleId', 'r.name as roleName'])
    .orderBy('p.name')
    .orderBy('u.name')
    .orderBy('r.name')
    .execute();
}

/** Whether any enabled user has the role of this name in any enabled project. */
export async function isRoleHeld(db: Queryable, name: string): Promise<boolean> {
  const row = await db
    .selectFrom('role_assignments as a')
    .innerJoin('users as u', 'u.id', 'a.user_id')
    .innerJoin('projects as p', 'p.id', 'a.project_id')
    .innerJoin('roles as r', 'r.id', 'a.role_id')
    .where('r.name', '=', name)
    .where('u.enabled', '=', true)
    .where('p.enabled', '=', true)
    .select('u.id')
    .limit(1)
    .executeTakeFirst();
  return row !== undefined;
}
