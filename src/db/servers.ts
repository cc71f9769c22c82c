import type { Insertable, Selectable, Updateable } from 'kysely';
import { sql } from 'kysely';
import { notFound } from '#core/errors.ts';
import type { HostName, ProjectId, ServerId } from '#core/ids.ts';
import { checkServerAction, type ServerAction, serverActions, type TaskState } from '#core/server.ts';
import type { Database, Queryable } from '#db/database.ts';
import type { Schema } from '#db/schema.ts';
import type { PendingOperation } from '#db/tables/columns.ts';
import type { ServerFault, ServerReplacement } from '#db/tables/servers.ts';

export type Server = Selectable<Schema['servers']>;
export type NewServer = Insertable<Schema['servers']>;
export type ServerChange = Omit<Updateable<Schema['servers']>, 'id' | 'fault' | 'operation'>;
export type { ServerReplacement } from '#db/tables/servers.ts';

export async function insertServer(db: Queryable, server: NewServer): Promise<Server> {
  return await db.insertInto('servers').values(server).returningAll().executeTakeFirstOrThrow();
}

/** The server, or null when there is none; a deleted one is still found. */
export async function findServer(db: Queryable, id: ServerId): Promise<Server | null> {
  return (await db.selectFrom('servers').selectAll().where('id', '=', id).executeTakeFirst()) ?? null;
}

/** The server, which nobody else changes until the transaction ends. @throws not-found when there is none. */
export async function lockServer(tx: Queryable, id: ServerId): Promise<Server> {
  const server = await tx.selectFrom('servers').selectAll().where('id', '=', id).forUpdate().executeTakeFirst();
  if (!server || server.vm_state === 'deleted') throw notFound('Instance', id);
  return server;
}

/** Servers that are not deleted, newest first; of one project, or of all. */
export async function listServers(db: Queryable, projectId: ProjectId | null): Promise<Server[]> {
  let query = db.selectFrom('servers').selectAll().where('vm_state', '<>', 'deleted');
  if (projectId !== null) query = query.where('project_id', '=', projectId);
  return await query.orderBy('created_at', 'desc').orderBy('id', 'desc').execute();
}

export async function updateServer(db: Queryable, id: ServerId, change: ServerChange): Promise<void> {
  await db
    .updateTable('servers')
    .set({ ...change, updated_at: new Date() })
    .where('id', '=', id)
    .execute();
}

/**
 * Claims a server for an action: sets its task state and pending operation, if the action is allowed in the state the
 * server is in at that instant. Of two callers at once exactly one succeeds.
 *
 * `operation` is made from the operation that was under way, if any, which the new one has to wait for. `replacement` is
 * what a resize or a rebuild is going to make of the server. `plan` writes what else has to be there when it begins, in
 * the same transaction.
 * @throws not-found (404); server-state (409) with Nova's text.
 */
export async function claimServer(
  db: Database,
  id: ServerId,
  action: ServerAction,
  operation: (underWay: PendingOperation | null, server: Server) => PendingOperation,
  replacement: ServerReplacement | null = null,
  plan: (tx: Queryable, server: Server, claim: PendingOperation) => Promise<void> = async () => {},
): Promise<PendingOperation> {
  return await db.transaction().execute(async (tx) => {
    const server = await lockServer(tx, id);
    checkServerAction(action, { id, vmState: server.vm_state, taskState: server.task_state });
    const claim = operation(server.operation, server);
    await plan(tx, server, claim);
    await tx
      .updateTable('servers')
      .set({
        task_state: serverActions[action].task,
        operation: JSON.stringify(claim),
        replacement: replacement === null ? null : JSON.stringify(replacement),
        updated_at: new Date(),
      })
      .where('id', '=', id)
      .execute();
    return claim;
  });
}

/**
 * Ends an operation: applies `change` and clears task state and pending operation with all it was to do, only if that
 * operation is still the server's (a delete may have taken over). Returns whether it was.
 */
export async function releaseServer(
  db: Queryable,
  id: ServerId,
  operationId: string,
  change: ServerChange & { readonly fault?: ServerFault | null },
): Promise<boolean> {
  const { fault, ...columns } = change;
  const result = await db
    .updateTable('servers')
    .set({
      ...columns,
      ...(fault === undefined ? {} : { fault: (fault === null ? null : JSON.stringify(fault)) as never }),
      task_state: null,
      operation: null,
      replacement: null,
      updated_at: new Date(),
    })
    .where('id', '=', id)
    .where(sql<string>`operation ->> 'id'`, '=', operationId)
    .executeTakeFirst();
  return result.numUpdatedRows > 0n;
}

/** Shows how far an operation has come, if it is still the server's. Returns whether it is. */
export async function showProgress(
  db: Queryable,
  id: ServerId,
  operationId: string,
  task: TaskState,
): Promise<boolean> {
  const result = await db
    .updateTable('servers')
    .set({ task_state: task, updated_at: new Date() })
    .where('id', '=', id)
    .where(sql<string>`operation ->> 'id'`, '=', operationId)
    .executeTakeFirst();
  return result.numUpdatedRows > 0n;
}

/** A server as its replacement will make it. */
export function replaced(server: Server): Server {
  return { ...server, ...server.replacement?.columns };
}

/** Makes a server what its replacement says, together with `change`. *Repeat*: there is no replacement any more. */
export async function applyReplacement(db: Queryable, server: Server, change: ServerChange): Promise<void> {
  const { flavor, metadata, ...columns } = server.replacement?.columns ?? {};
  await updateServer(db, server.id, {
    ...columns,
    ...(flavor === undefined ? {} : { flavor: JSON.stringify(flavor) }),
    ...(metadata === undefined ? {} : { metadata: JSON.stringify(metadata) }),
    replacement: null,
    ...change,
  });
}

/** Servers that an operation is under way on. */
export async function serversInOperation(db: Queryable): Promise<Server[]> {
  return await db.selectFrom('servers').selectAll().where('operation', 'is not', null).execute();
}

export async function serversOnHost(db: Queryable, host: HostName): Promise<Server[]> {
  return await db
    .selectFrom('servers')
    .selectAll()
    .where('host', '=', host)
    .where('vm_state', '<>', 'deleted')
    .execute();
}

/** A server's row in the words of `core`. */
export function stateOf({ vm_state: vmState, power_state: powerState }: Pick<Server, 'vm_state' | 'power_state'>) {
  return { vmState, powerState };
}

/** Nova's name of a server's domain: `instance-` and its number in eight hexadecimal digits. */
export function instanceName(server: Pick<Server, 'number'>): string {
  return `instance-${server.number.toString(16).padStart(8, '0')}`;
}
