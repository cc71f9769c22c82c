import { sql } from 'kysely';
import type { ProjectId } from '#core/ids.ts';
import { type Amounts, defaultQuotas, judgeQuota, type QuotaRequest, typeResources } from '#core/volume-quota.ts';
import type { Database, Queryable } from '#db/database.ts';

/** The quota class that projects without a limit of their own are held to; others are kept and mean nothing. */
export const DEFAULT_CLASS = 'default';

/** Whose limits: a project's own, or a quota class's. */
export type QuotaOwner = { readonly kind: 'project' | 'class'; readonly owner: string };

/** Any constant: whoever adds to a project's block storage waits for the others under this lock. */
const QUOTA_LOCK = 0x6e6c_7175;

/**
 * Lets pass what stays within the project's quotas. Until the transaction ends nobody else passes for this project, so what
 * passed has to be written in the same one. Take it after locks on rows. @throws over-quota (413).
 */
export async function checkQuota(tx: Queryable, projectId: ProjectId, request: QuotaRequest): Promise<void> {
  await sql`select pg_advisory_xact_lock(${QUOTA_LOCK}, hashtext(${projectId}))`.execute(tx);
  judgeQuota(request, await projectLimits(tx, projectId), await projectUse(tx, projectId));
}

/** Every limit a project is held to. -1: none. */
export async function projectLimits(db: Queryable, projectId: ProjectId): Promise<Amounts> {
  const own = await limitsOf(db, { kind: 'project', owner: projectId });
  return { ...(await classLimits(db, DEFAULT_CLASS)), ...own };
}

/** Every limit of a quota class; what it does not say is as `default` says. */
export async function classLimits(db: Queryable, name: string): Promise<Amounts> {
  const types = await db.selectFrom('volume_types').select('name').orderBy('name').execute();
  const ofTypes = types.flatMap((type) => typeResources.map((resource) => [`${resource}_${type.name}`, -1]));
  const everyones = await limitsOf(db, { kind: 'class', owner: DEFAULT_CLASS });
  const own = name === DEFAULT_CLASS ? {} : await limitsOf(db, { kind: 'class', owner: name });
  return { ...defaultQuotas, ...Object.fromEntries(ofTypes), ...everyones, ...own };
}

/** The limits that are set for exactly this owner. */
export async function limitsOf(db: Queryable, { kind, owner }: QuotaOwner): Promise<Amounts> {
  const query = db.selectFrom('volume_quotas').select(['resource', 'hard_limit']);
  const rows = await query.where('kind', '=', kind).where('owner', '=', owner).execute();
  return Object.fromEntries(rows.map(({ resource, hard_limit }) => [resource, hard_limit]));
}

/** Sets limits, all or none. */
export async function setLimits(db: Queryable, { kind, owner }: QuotaOwner, limits: Amounts): Promise<void> {
  const rows = Object.entries(limits).map(([resource, hard_limit]) => ({ kind, owner, resource, hard_limit }));
  if (rows.length === 0) return;
  await db
    .insertInto('volume_quotas')
    .values(rows)
    .onConflict((conflict) =>
      conflict.columns(['kind', 'owner', 'resource']).doUpdateSet({ hard_limit: sql`excluded.hard_limit` }),
    )
    .execute();
}

/** Forgets a project's own limits. */
export async function clearLimits(db: Queryable, projectId: string): Promise<void> {
  await db.deleteFrom('volume_quotas').where('kind', '=', 'project').where('owner', '=', projectId).execute();
}

/**
 * How much of everything a project has, derived from what is there and never stored: all that is not deleted counts,
 * in whatever state. Snapshots count as gigabytes too. Resources of volume types that it has nothing of are missing.
 */
export async function projectUse(db: Queryable, projectId: ProjectId): Promise<Amounts> {
  const { rows } = await sql<{ resource: string; type: string | null; count: number; gib: number }>`
    select 'volumes' as resource, volume_types.name as type, count(*)::int as count, sum(size_gib)::bigint as gib
      from volumes left join volume_types on volume_types.id = volume_type_id
      where project_id = ${projectId} and deleted_at is null group by volume_types.name
    union all
    select 'snapshots', volume_types.name, count(*)::int, sum(snapshots.size_gib)::bigint
      from snapshots join volumes on volumes.id = volume_id
      left join volume_types on volume_types.id = volume_type_id
      where snapshots.project_id = ${projectId} and snapshots.deleted_at is null group by volume_types.name
    union all
    select 'backups', null, count(*)::int, coalesce(sum(size_gib), 0)::bigint
      from backups where project_id = ${projectId} and deleted_at is null`.execute(db);
  const use: Record<string, number> = Object.fromEntries(Object.keys(defaultQuotas).map((resource) => [resource, 0]));
  const add = (resource: string, amount: number) => {
    use[resource] = (use[resource] ?? 0) + amount;
  };
  for (const { resource, type, count, gib } of rows) {
    const sizes = resource === 'backups' ? 'backup_gigabytes' : 'gigabytes';
    for (const suffix of type === null ? [''] : ['', `_${type}`]) {
      add(`${resource}${suffix}`, count);
      add(`${sizes}${suffix}`, gib);
    }
  }
  return use;
}

/** Lets a type's quotas go on under its new name. */
export async function renameTypeQuotas(tx: Queryable, from: string, to: string): Promise<void> {
  if (from === to) return;
  for (const resource of typeResources) {
    await tx
      .updateTable('volume_quotas')
      .set({ resource: `${resource}_${to}` })
      .where('resource', '=', `${resource}_${from}`)
      .execute();
  }
}

/** Forgets the quotas of a type that is no more. */
export async function forgetTypeQuotas(tx: Queryable, name: string): Promise<void> {
  const resources = typeResources.map((resource) => `${resource}_${name}`);
  await tx.deleteFrom('volume_quotas').where('resource', 'in', resources).execute();
}

/**
 * Sets a project's limits unless one is below what it has. Returns null, or the resource that it has more of, with how
 * much; then nothing was set.
 */
export async function setProjectLimits(
  db: Database,
  projectId: ProjectId,
  limits: Amounts,
): Promise<{ readonly resource: string; readonly inUse: number } | null> {
  return await db.transaction().execute(async (tx) => {
    await sql`select pg_advisory_xact_lock(${QUOTA_LOCK}, hashtext(${projectId}))`.execute(tx);
    const use = await projectUse(tx, projectId);
    for (const [resource, limit] of Object.entries(limits)) {
      const inUse = use[resource] ?? 0;
      if (resource !== 'per_volume_gigabytes' && limit >= 0 && limit < inUse) return { resource, inUse };
    }
    await setLimits(tx, { kind: 'project', owner: projectId }, limits);
    return null;
  });
}
