import { badRequest, NightlatchError, notFound, shorten } from '#core/errors.ts';
import type { ProjectId, UserId } from '#core/ids.ts';
import { type Database, isDuplicate, type Queryable } from '#db/database.ts';
import { findProject, insertProject, type Project, type ProjectChange, updateProject } from '#db/projects.ts';
import { assignRole, deleteRole, findRole, insertRole, type Role, unassignRole } from '#db/roles.ts';
import { revokeTokens } from '#db/tokens.ts';
import { findUser, insertUser, type NewUser, type User, type UserChange, updateUser } from '#db/users.ts';
import { newIdentityId } from '#identity/builtin/domain.ts';
import { hashPassword, verifyPassword } from '#identity/builtin/password.ts';
import { isBuiltinRole } from '#identity/builtin/role-names.ts';

export type UserInput = Omit<NewUser, 'id' | 'password_hash'> & { readonly password: string | null };

/** Adds a user; without a password it cannot log in. @throws conflict when the name is taken. */
export async function createUser(db: Database, { password, ...columns }: UserInput): Promise<User> {
  await checkDefaultProject(db, columns.default_project_id ?? null);
  const password_hash = password === null ? null : await hashPassword(password);
  const user = await insertUser(db, { ...columns, id: newIdentityId<UserId>(), password_hash });
  return user ?? taken('user', columns.name);
}

/** Changes a user; disabling it or giving it a new password revokes its tokens. @throws not-found, conflict. */
export async function changeUser(
  db: Database,
  id: UserId,
  { password, ...change }: Omit<UserChange, 'password_hash'> & { readonly password?: string },
): Promise<User> {
  await checkDefaultProject(db, change.default_project_id ?? null);
  const full: UserChange = password === undefined ? change : { ...change, password_hash: await hashPassword(password) };
  return await db.transaction().execute(async (transaction) => {
    const user = await renaming('user', change.name, () => updateUser(transaction, id, full));
    if (!user) throw notFound('User', id);
    if (change.enabled === false || password !== undefined) await revokeTokens(transaction, { userId: id });
    return user;
  });
}

/** Changes a password for who knows the old one, and revokes the user's tokens. @throws unauthorized, bad-request. */
export async function changeOwnPassword(db: Database, id: UserId, original: string, next: string): Promise<void> {
  const user = await findUser(db, id);
  const matches = await verifyPassword(original, user?.password_hash ?? null);
  if (!user?.enabled || !matches) throw new NightlatchError('unauthorized');
  if (original === next) throw badRequest('The new password must differ from the old one.');
  await changeUser(db, id, { password: next });
}

/** Adds a project. @throws conflict when the name is taken. */
export async function createProject(db: Database, project: Omit<Project, 'id' | 'created_at'>): Promise<Project> {
  return (await insertProject(db, { ...project, id: newIdentityId<ProjectId>() })) ?? taken('project', project.name);
}

/** Changes a project; disabling it revokes the tokens scoped to it. @throws not-found, conflict. */
export async function changeProject(db: Database, id: ProjectId, change: ProjectChange): Promise<Project> {
  return await db.transaction().execute(async (transaction) => {
    const project = await renaming('project', change.name, () => updateProject(transaction, id, change));
    if (!project) throw notFound('Project', id);
    if (change.enabled === false) await revokeTokens(transaction, { projectId: id });
    return project;
  });
}

/** Adds a role. @throws conflict when the name is taken. */
export async function createRole(db: Database, name: string): Promise<Role> {
  return (await insertRole(db, { id: newIdentityId(), name })) ?? taken('role', name);
}

/** Removes a role from everyone, and their tokens. @throws not-found; forbidden for the roles policy speaks of. */
export async function removeRole(db: Database, id: string): Promise<void> {
  const role = await findRole(db, id);
  if (!role) throw notFound('Role', id);
  if (isBuiltinRole(role.name)) {
    throw new NightlatchError('forbidden', { action: `deleting the built-in role ${role.name}` });
  }
  await db.transaction().execute(async (transaction) => {
    await revokeTokens(transaction, { roleId: id });
    await deleteRole(transaction, id);
  });
}

export type Grant = { readonly userId: UserId; readonly projectId: ProjectId; readonly roleId: string };

/** Gives a role. *Repeat*: fine. @throws not-found when one of the three does not exist. */
export async function grantRole(db: Database, grant: Grant): Promise<void> {
  await checkGrant(db, grant);
  await assignRole(db, grant.userId, grant.projectId, grant.roleId);
}

/** Takes a role away, and the user's tokens for the project. @throws not-found. */
export async function withdrawRole(db: Database, grant: Grant): Promise<void> {
  await checkGrant(db, grant);
  await db.transaction().execute(async (transaction) => {
    const had = await unassignRole(transaction, grant.userId, grant.projectId, grant.roleId);
    if (!had) throw notFound('Role assignment with role', grant.roleId);
    await revokeTokens(transaction, { userId: grant.userId, projectId: grant.projectId });
  });
}

/** @throws not-found unless user, project and role all exist. */
export async function checkGrant(db: Queryable, grant: Grant): Promise<void> {
  if (!(await findProject(db, grant.projectId))) throw notFound('Project', grant.projectId);
  if (!(await findUser(db, grant.userId))) throw notFound('User', grant.userId);
  if (!(await findRole(db, grant.roleId))) throw notFound('Role', grant.roleId);
}

async function checkDefaultProject(db: Queryable, id: ProjectId | null): Promise<void> {
  if (id !== null && !(await findProject(db, id))) {
    throw badRequest(`The default project ${shorten(id, 64)} does not exist. Create it first, or leave it out.`);
  }
}

function taken(kind: string, name: string): never {
  throw new NightlatchError('conflict', {
    reason: `Conflict occurred attempting to store ${kind}: the name ${shorten(name, 64)} is taken. Choose another.`,
  });
}

async function renaming<T>(kind: string, name: string | undefined, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (isDuplicate(error)) return taken(kind, name ?? '');
    throw error;
  }
}
