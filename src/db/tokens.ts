import type { Insertable } from 'kysely';
import { sql } from 'kysely';
import type { ProjectId, UserId } from '#core/ids.ts';
import type { Queryable } from '#db/database.ts';
import type { Role } from '#db/roles.ts';
import type { Schema } from '#db/schema.ts';

export type NewToken = Insertable<Schema['tokens']>;

/** A live token with what it stands for now. */
export type LiveToken = {
  readonly auditId: string;
  readonly methods: readonly string[];
  readonly issuedAt: Date;
  readonly expiresAt: Date;
  readonly userId: UserId;
  readonly userName: string;
  readonly projectId: ProjectId | null;
  readonly projectName: string | null;
  /** Roles given in the project; empty without a project. */
  readonly roles: readonly Role[];
};

/** Stores a token by its hash, and forgets those long expired. */
export async function insertToken(db: Queryable, token: NewToken): Promise<void> {
  await db.deleteFrom('tokens').where('expires_at', '<', sql<Date>`now() - interval '1 hour'`).execute();
  await db.insertInto('tokens').values(token).execute();
}

/**
 * The token of this hash, unless it expired at `now` or was revoked, or its user or project is disabled, or its user
 * has no role in its project any more.
 */
export async function findLiveToken(db: Queryable, hash: Buffer, now: Date): Promise<LiveToken | null> {
  const row = await db
    .selectFrom('tokens as t')
    .innerJoin('users as u', 'u.id', 't.user_id')
    .leftJoin('projects as p', 'p.id', 't.project_id')
    .where('t.hash', '=', hash)
    .where('t.revoked_at', 'is', null)
    .where('t.expires_at', '>', now)
    .where('u.enabled', '=', true)
    .where((eb) => eb.or([eb('t.project_id', 'is', null), eb('p.enabled', '=', true)]))
    .select(['t.audit_id as auditId', 't.methods', 't.issued_at as issuedAt', 't.expires_at as expiresAt'])
    .select(['u.id as userId', 'u.name as userName', 'p.id as projectId', 'p.name as projectName'])
    .select(
      sql<Role[]>`(select coalesce(json_agg(json_build_object('id', r.id, 'name', r.name) order by r.name), '[]')
        from role_assignments a join roles r on r.id = a.role_id
        where a.user_id = t.user_id and a.project_id = t.project_id)`.as('roles'),
    )
    .executeTakeFirst();
  if (!row || (row.projectId !== null && row.roles.length === 0)) return null;
  return row;
}

/** Which tokens to revoke: one, or all of a user, of a project, of a user in a project, or of holders of a role. */
export type TokenSelection =
  | { readonly hash: Buffer }
  | { readonly userId: UserId; readonly projectId?: ProjectId }
  | { readonly projectId: ProjectId }
  | { readonly roleId: string };

/** Revokes tokens, for good. *Repeat*: fine. */
export async function revokeTokens(db: Queryable, which: TokenSelection): Promise<void> {
  let query = db.updateTable('tokens').set({ revoked_at: new Date() }).where('revoked_at', 'is', null);
  if ('hash' in which) query = query.where('hash', '=', which.hash);
  if ('userId' in which) query = query.where('user_id', '=', which.userId);
  if ('projectId' in which && which.projectId !== undefined) query = query.where('project_id', '=', which.projectId);
  if ('roleId' in which) {
    query = query.where(({ exists, selectFrom }) =>
      exists(
        selectFrom('role_assignments as a')
          .whereRef('a.user_id', '=', 'tokens.user_id')
          .whereRef('a.project_id', '=', 'tokens.project_id')
          .where('a.role_id', '=', which.roleId)
          .select('a.role_id'),
      ),
    );
  }
  await query.execute();
}
