import { randomBytes } from 'node:crypto';
import { sql } from 'kysely';
import type { ProjectId, UserId } from '#core/ids.ts';
import type { Database, Queryable } from '#db/database.ts';
import { findProjectByName, insertProject } from '#db/projects.ts';
import { assignRole, insertRole, isRoleHeld, listRoles } from '#db/roles.ts';
import { revokeTokens } from '#db/tokens.ts';
import { findUserByName, insertUser, updateUser } from '#db/users.ts';
import { DEFAULT_DOMAIN, newIdentityId } from '#identity/builtin/domain.ts';
import { hashPassword } from '#identity/builtin/password.ts';
import { builtinRoles } from '#identity/builtin/role-names.ts';

/** How the first admin logs in. A user's password, to be kept where only the operator reads it (mode 0600). */
export type AdminCredentials = {
  readonly userName: string;
  readonly password: string;
  readonly projectName: string;
  readonly domainId: string;
};

const ADMIN = 'admin';
/** Any number that no other advisory lock of ours has. */
const BOOTSTRAP_LOCK = 7_461_001;

/**
 * Guarantees that the roles exist and that someone can log in as admin: when no enabled user has the role admin, gives
 * it to the user `admin` in the project `admin`, with a new random password, which is returned; else null.
 *
 * `keep` is called with the password before it takes effect, to store it durably; if it throws, nothing is changed. So
 * a crash never leaves an admin whose password nobody knows.
 *
 * *Repeat*: changes nothing. Concurrent callers wait for each other.
 */
export async function bootstrapIdentity(
  db: Database,
  keep: (credentials: AdminCredentials) => Promise<void> = async () => {},
): Promise<AdminCredentials | null> {
  return await db.transaction().execute(async (transaction) => {
    await sql`select pg_advisory_xact_lock(${BOOTSTRAP_LOCK})`.execute(transaction);
    for (const name of builtinRoles) await insertRole(transaction, { id: newIdentityId(), name });
    if (await isRoleHeld(transaction, ADMIN)) return null;
    const password = randomBytes(24).toString('base64url');
    await createAdmin(transaction, password);
    const credentials = { userName: ADMIN, password, projectName: ADMIN, domainId: DEFAULT_DOMAIN.id };
    await keep(credentials);
    return credentials;
  });
}

async function createAdmin(db: Queryable, password: string): Promise<void> {
  const password_hash = await hashPassword(password);
  const project =
    (await insertProject(db, { id: newIdentityId<ProjectId>(), name: ADMIN, description: 'First project' })) ??
    (await findProjectByName(db, ADMIN, DEFAULT_DOMAIN.id));
  const user =
    (await insertUser(db, { id: newIdentityId<UserId>(), name: ADMIN })) ??
    (await findUserByName(db, ADMIN, DEFAULT_DOMAIN.id));
  const [role] = await listRoles(db, ADMIN);
  if (!project || !user || !role) throw new Error('the first admin was neither made nor found');
  await updateUser(db, user.id, { password_hash, enabled: true, default_project_id: project.id });
  await db.updateTable('projects').set({ enabled: true }).where('id', '=', project.id).execute();
  await revokeTokens(db, { userId: user.id });
  await assignRole(db, user.id, project.id, role.id);
}
