import type { Selectable } from 'kysely';
import type { ServerId } from '#core/ids.ts';
import type { Queryable } from '#db/database.ts';
import type { Schema } from '#db/schema.ts';

/** What a user had done to a server. How it went, the operation tells. */
export type InstanceAction = Selectable<Schema['instance_actions']>;

/** In the transaction that writes the operation: neither is there without the other. */
export async function insertInstanceAction(tx: Queryable, action: Omit<InstanceAction, 'started_at'>): Promise<void> {
  await tx.insertInto('instance_actions').values(action).execute();
}

/** Newest first, also of a server that is deleted. */
export async function listInstanceActions(db: Queryable, serverId: ServerId): Promise<InstanceAction[]> {
  const query = db.selectFrom('instance_actions').selectAll().where('server_id', '=', serverId);
  return await query.orderBy('started_at', 'desc').orderBy('operation_id').execute();
}
