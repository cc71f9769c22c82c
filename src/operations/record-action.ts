import type { ServerId } from '#core/ids.ts';
import type { Queryable } from '#db/database.ts';
import { insertInstanceAction } from '#db/instance-actions.ts';
import type { PendingOperation } from '#db/tables/columns.ts';
import type { Actor } from '#operations/server-operations.ts';

/** Notes that a user has this done to a server; what the service does by itself is nobody's action. */
export async function recordAction(
  tx: Queryable,
  action: string,
  serverId: ServerId,
  { id }: PendingOperation,
  actor: Actor,
): Promise<void> {
  if (!('userId' in actor)) return;
  const { userId: user_id, projectId: project_id, requestId: request_id } = actor;
  await insertInstanceAction(tx, { operation_id: id, server_id: serverId, action, request_id, user_id, project_id });
}
