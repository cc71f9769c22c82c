import type { RequestContext } from '#api/auth.ts';
import { mayDo } from '#api/compute/policy.ts';
import type { ComputeServices } from '#api/compute/services.ts';
import { NightlatchError } from '#core/errors.ts';
import type { ServerId } from '#core/ids.ts';
import type { Database } from '#db/database.ts';
import { findServer, type Server, updateServer } from '#db/servers.ts';

/** Sets the deletion going; one that is under way already is left to it. *Repeat*: fine. */
export async function deleteOnce(
  { db, operations }: Pick<ComputeServices, 'db' | 'operations'>,
  id: ServerId,
  context: RequestContext,
): Promise<void> {
  try {
    await operations.act('delete', id, context);
  } catch (error) {
    if (!(error instanceof NightlatchError && (error.status === 409 || error.status === 404))) throw error;
    const now = await findServer(db, id);
    if (now && now.task_state !== 'deleting' && now.vm_state !== 'deleted') throw error;
  }
}

/** Locks the server against changes by its owner. *Repeat*: an admin's lock stays an admin's. */
export async function lockServer(
  db: Database,
  server: Server,
  context: RequestContext,
  reason: string | null,
): Promise<void> {
  const by = server.locked_by === 'admin' || server.project_id !== context.projectId ? 'admin' : 'owner';
  await updateServer(db, server.id, { locked_by: by, locked_reason: reason });
}

/** Opens the lock. *Repeat*: fine. @throws refused (403) when an admin locked it and the caller is none. */
export async function unlockServer(db: Database, server: Server, context: RequestContext): Promise<void> {
  if (server.locked_by === 'admin' && !mayDo(context, 'os_compute_api:os-lock-server:unlock:unlock_override')) {
    throw new NightlatchError('forbidden', { action: 'os_compute_api:os-lock-server:unlock:unlock_override' });
  }
  await updateServer(db, server.id, { locked_by: null, locked_reason: null });
}

/**
 * Overrules what is recorded of a server's state, for an admin who knows better.
 *
 * Unlike Nova's, it leaves a server alone that an operation is under way on: operations here end by themselves, also
 * after a crash, and two at once could touch the same disks.
 * @throws conflict (409) then.
 */
export async function resetState(db: Database, server: Server, state: 'active' | 'error'): Promise<void> {
  const { numUpdatedRows } = await db
    .updateTable('servers')
    .set({ vm_state: state, task_state: null, updated_at: new Date() })
    .where('id', '=', server.id)
    .where('operation', 'is', null)
    .where('vm_state', '<>', 'deleted')
    .executeTakeFirst();
  if (numUpdatedRows > 0n) return;
  throw new NightlatchError('conflict', {
    reason: `Cannot 'reset_state' instance ${server.id} while it is in task_state ${server.task_state ?? 'unknown'}. Try again when the operation has ended.`,
  });
}
