import type { RequestContext } from '#api/auth.ts';
import { NightlatchError, shorten } from '#core/errors.ts';
import { isUuid, type ServerId } from '#core/ids.ts';
import type { Queryable } from '#db/database.ts';
import { findServer, type Server } from '#db/servers.ts';

/** The server, when the caller may know that it exists. @throws not-there (404), for another project's too. */
export async function getServer(db: Queryable, id: string, context: RequestContext): Promise<Server> {
  const server = await getServerOrDeleted(db, id, context);
  if (server.vm_state === 'deleted') throw noServer(id);
  return server;
}

/** As `getServer`, of one that may be deleted. */
export async function getServerOrDeleted(db: Queryable, id: string, context: RequestContext): Promise<Server> {
  const server = isUuid(id) ? await findServer(db, id as ServerId) : null;
  const isHidden = server?.project_id !== context.projectId && !context.isAdmin;
  if (!server || isHidden) throw noServer(id);
  return server;
}

export function noServer(id: string): NightlatchError {
  return new NightlatchError('not-there', { reason: `Instance ${shorten(id)} could not be found.` });
}

/** Lets the caller change a server that is not locked; an admin always. @throws conflict (409) with Nova's text. */
export function checkUnlocked(server: Server, context: RequestContext): void {
  if (server.locked_by !== null && !context.isAdmin) {
    throw new NightlatchError('conflict', { reason: `Instance ${server.id} is locked` });
  }
}
