import { type RawBuilder, sql } from 'kysely';
import type { ProjectId } from '#core/ids.ts';
import type { PowerState, TaskState, VmState } from '#core/server.ts';
import type { Database } from '#db/database.ts';
import type { Server } from '#db/servers.ts';

/** One state of many that fit a filter; `taskStates` holds null for no task. */
export type StateMatch = { readonly vmState: VmState; readonly taskStates: readonly (TaskState | null)[] };

/** Which servers to list; what is absent does not restrict. */
export type ServerFilter = {
  readonly projectId?: string;
  readonly userId?: string;
  readonly id?: string;
  /** A regular expression, as PostgreSQL knows them, found anywhere in the name; letter case does not matter. */
  readonly namePattern?: string;
  readonly states?: readonly StateMatch[];
  readonly imageId?: string;
  readonly flavorId?: string;
  readonly host?: string;
  readonly reservationId?: string;
  readonly keyName?: string;
  readonly locked?: boolean;
  readonly vmState?: string;
  readonly taskState?: string;
  readonly powerState?: PowerState;
  readonly changedSince?: Date;
  readonly changedBefore?: Date;
  readonly createdAt?: Date;
  readonly allTags?: readonly string[];
  readonly anyTags?: readonly string[];
  readonly notAllTags?: readonly string[];
  readonly notAnyTags?: readonly string[];
  /** Both: deleted ones among the others. */
  readonly deleted: 'no' | 'only' | 'both';
};

/** Null values sort as the least, so every sort key has a value. */
const sortColumns = {
  uuid: sql`id`,
  display_name: sql`name`,
  created_at: sql`created_at`,
  updated_at: sql`updated_at`,
  launched_at: sql`coalesce(launched_at, '-infinity')`,
  terminated_at: sql`coalesce(terminated_at, '-infinity')`,
  vm_state: sql`vm_state`,
  task_state: sql`coalesce(task_state, '')`,
  power_state: sql`power_state`,
  project_id: sql`project_id`,
  user_id: sql`user_id`,
  host: sql`coalesce(host, '')`,
  node: sql`coalesce(host, '')`,
  image_ref: sql`coalesce(image_id, '')`,
  key_name: sql`coalesce(key_name, '')`,
  display_description: sql`coalesce(description, '')`,
} as const satisfies Record<string, RawBuilder<unknown>>;
export type ServerSortKey = keyof typeof sortColumns;
export const serverSortKeys = Object.keys(sortColumns) as ServerSortKey[];
export type ServerOrder = readonly { readonly key: ServerSortKey; readonly direction: 'asc' | 'desc' }[];

/** A page of a list: so many servers, after the one named. */
export type ServerPage = { readonly order: ServerOrder; readonly limit: number; readonly after: string | null };

/** A pattern may take PostgreSQL long to match; a query is given up then. */
const TIMEOUT_MS = 5000;

/** Why a list could not be made: the client's pattern is none, or takes too long. */
export class BadPatternError extends Error {}

/** The page of servers. *Throws* BadPatternError when the pattern is none or takes longer than five seconds. */
export async function selectServers(db: Database, filter: ServerFilter, page: ServerPage): Promise<Server[]> {
  try {
    return await db.transaction().execute(async (tx) => {
      await sql`select set_config('statement_timeout', ${String(TIMEOUT_MS)}, true)`.execute(tx);
      let query = tx.selectFrom('servers').selectAll();
      for (const condition of conditions(filter)) query = query.where(condition);
      if (page.after !== null) query = query.where(isAfter(page.order, page.after));
      for (const { key, direction } of page.order) query = query.orderBy(sortColumns[key], direction);
      return await query.limit(page.limit).execute();
    });
  } catch (error) {
    // 2201B: no regular expression. 57014: the statement took too long.
    const code = error instanceof Error && 'code' in error ? error.code : null;
    if (filter.namePattern !== undefined && (code === '2201B' || code === '57014')) throw new BadPatternError();
    throw error;
  }
}

/** Whether a page can start after this server. */
export async function isMarker(db: Database, id: string, projectId: ProjectId | null): Promise<boolean> {
  const query = db.selectFrom('servers').select('id').where(sql<string>`id`, '=', id);
  return (
    (await (projectId === null ? query : query.where('project_id', '=', projectId)).executeTakeFirst()) !== undefined
  );
}

function* conditions(filter: ServerFilter): Generator<RawBuilder<boolean>> {
  const equals: [RawBuilder<unknown>, string | boolean | undefined][] = [
    [sql`project_id`, filter.projectId],
    [sql`user_id`, filter.userId],
    [sql`id`, filter.id],
    [sql`image_id`, filter.imageId],
    [sql`flavor ->> 'id'`, filter.flavorId],
    [sql`host`, filter.host],
    [sql`reservation_id`, filter.reservationId],
    [sql`key_name`, filter.keyName],
    [sql`locked_by is not null`, filter.locked],
    [sql`vm_state`, filter.vmState],
    [sql`task_state`, filter.taskState],
    [sql`power_state`, filter.powerState],
  ];
  for (const [column, value] of equals) if (value !== undefined) yield sql<boolean>`(${column}) = ${value}`;
  if (filter.namePattern !== undefined) yield sql<boolean>`name ~* ${filter.namePattern}`;
  if (filter.deleted === 'no') yield sql<boolean>`vm_state <> 'deleted'`;
  if (filter.deleted === 'only') yield sql<boolean>`vm_state = 'deleted'`;
  if (filter.changedSince) yield sql<boolean>`updated_at >= ${filter.changedSince}`;
  if (filter.changedBefore) yield sql<boolean>`updated_at <= ${filter.changedBefore}`;
  if (filter.createdAt) yield sql<boolean>`date_trunc('second', created_at) = ${filter.createdAt}`;
  if (filter.allTags) yield sql<boolean>`tags @> ${[...filter.allTags]}::text[]`;
  if (filter.anyTags) yield sql<boolean>`tags && ${[...filter.anyTags]}::text[]`;
  if (filter.notAllTags) yield sql<boolean>`not tags @> ${[...filter.notAllTags]}::text[]`;
  if (filter.notAnyTags) yield sql<boolean>`not tags && ${[...filter.notAnyTags]}::text[]`;
  if (filter.states) yield inStates(filter.states);
}

function inStates(states: readonly StateMatch[]): RawBuilder<boolean> {
  if (states.length === 0) return sql<boolean>`false`;
  const each = states.map(({ vmState, taskStates }) => {
    const tasks = taskStates.filter((task) => task !== null);
    const none = taskStates.includes(null) ? sql`task_state is null` : sql`false`;
    return sql`(vm_state = ${vmState} and (${none} or task_state = any(${tasks}::text[])))`;
  });
  return sql<boolean>`(${sql.join(each, sql` or `)})`;
}

/** Compares within the database, whose times are finer than ours. */
function isAfter(order: ServerOrder, id: string): RawBuilder<boolean> {
  const values = order.map(({ key }) => sql`(select ${sortColumns[key]} from servers where id = ${id})`);
  const each = order.map(({ key, direction }, i) => {
    const equal = order.slice(0, i).map((earlier, j) => sql`${sortColumns[earlier.key]} = ${values[j]} and `);
    const beyond = direction === 'asc' ? sql`>` : sql`<`;
    return sql`(${sql.join(equal, sql``)}${sortColumns[key]} ${beyond} ${values[i]})`;
  });
  return sql<boolean>`(${sql.join(each, sql` or `)})`;
}

/** What a project's servers take together, whatever state they are in. */
export async function serverUse(
  db: Database,
  projectId: string,
): Promise<{ instances: number; vcpus: number; ramMib: number }> {
  return await db
    .selectFrom('servers')
    .where(sql<string>`project_id`, '=', projectId)
    .where('vm_state', '<>', 'deleted')
    .select([
      sql<number>`count(*)::int`.as('instances'),
      sql<number>`coalesce(sum((flavor ->> 'vcpus')::bigint), 0)::bigint`.as('vcpus'),
      sql<number>`coalesce(sum((flavor ->> 'ramMib')::bigint), 0)::bigint`.as('ramMib'),
    ])
    .executeTakeFirstOrThrow();
}
