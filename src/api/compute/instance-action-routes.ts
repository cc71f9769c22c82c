import type { FastifyRequest } from 'fastify';
import type { ApiApp } from '#api/app.ts';
import { contextOf } from '#api/auth.ts';
import { nextPage } from '#api/compute/links.ts';
import { has } from '#api/compute/microversions.ts';
import { allowed } from '#api/compute/policy.ts';
import { getServer, getServerOrDeleted } from '#api/compute/server-lookup.ts';
import { hostIdOf } from '#api/compute/server-presenter.ts';
import type { ComputeServices } from '#api/compute/services.ts';
import { Query } from '#api/query.ts';
import { presentTime } from '#api/times.ts';
import { badRequest, NightlatchError, shorten } from '#core/errors.ts';
import type { Database } from '#db/database.ts';
import { type InstanceAction, listInstanceActions } from '#db/instance-actions.ts';
import type { Server } from '#db/servers.ts';
import type { Outcome } from '#operations/server-operations.ts';

type Ids = { id: string; request: string };

/** What users had done to a server, newest first. See Compute API "Servers actions" (os-instance-actions). */
export function addInstanceActionRoutes(app: ApiApp, { db, operations, publicUrl }: ComputeServices): void {
  app.get<{ Params: Ids }>('/servers/:id/os-instance-actions', async (request) => {
    const context = allowed(request, 'os_compute_api:os-instance-actions:list');
    const server = await serverOf(db, request, request.params.id, context);
    const all = await listInstanceActions(db, server.id);
    const outcomes = await operations.outcomes(all.map(({ operation_id }) => operation_id));
    const known = all.map((action) => ({ action, outcome: outcomes.get(action.operation_id) }));
    const { page, limit } = pageFor(request, known);
    const ids = page.map(({ action }) => action.request_id);
    const path = `servers/${server.id}/os-instance-actions`;
    const next = has(request, 'instance-action-paging') ? nextPage(request, publicUrl, { path, limit, ids }) : [];
    return {
      instanceActions: page.map(({ action, outcome }) => present(request, action, outcome)),
      ...(next.length > 0 ? { links: next } : {}),
    };
  });
  app.get<{ Params: Ids }>('/servers/:id/os-instance-actions/:request', async (request) => {
    const context = allowed(request, 'os_compute_api:os-instance-actions:show');
    const server = await serverOf(db, request, request.params.id, context);
    const all = await listInstanceActions(db, server.id);
    const action = all.find(({ request_id }) => request_id === request.params.request);
    if (!action) {
      const which = shorten(request.params.request);
      const reason = `Action for request_id ${which} on instance ${server.id} not found`;
      throw new NightlatchError('not-there', { reason });
    }
    const outcome = (await operations.outcomes([action.operation_id])).get(action.operation_id);
    const events = mayShowEvents(request) ? { events: [presentEvent(request, server, action, outcome)] } : {};
    return { instanceAction: { ...present(request, action, outcome), ...events } };
  });
}

/** Those of deleted servers are told from 2.21 on. */
async function serverOf(
  db: Database,
  request: FastifyRequest,
  id: string,
  context: ReturnType<typeof allowed>,
): Promise<Server> {
  return has(request, 'deleted-instance-actions')
    ? await getServerOrDeleted(db, id, context)
    : await getServer(db, id, context);
}

type Known = { readonly action: InstanceAction; readonly outcome: Outcome | undefined };

function pageFor(request: FastifyRequest, all: readonly Known[]): { page: Known[]; limit: number } {
  const query = new Query(request);
  const limit = query.limit();
  if (!has(request, 'instance-action-paging')) return { page: [...all], limit };
  const since = query.time('changes-since');
  const until = has(request, 'changes-before') ? query.time('changes-before') : null;
  const within = all.filter(({ action, outcome }) => {
    const at = updatedAt(action, outcome);
    return (since === null || at >= since) && (until === null || at <= until);
  });
  const marker = query.text('marker');
  const place = marker === null ? -1 : within.findIndex(({ action }) => action.request_id === marker);
  if (marker !== null && place < 0) throw badRequest(`marker [${shorten(marker)}] not found`);
  return { page: within.slice(place + 1, place + 1 + limit), limit };
}

function updatedAt({ started_at }: InstanceAction, outcome: Outcome | undefined): Date {
  return outcome?.endedAt ?? started_at;
}

function present(request: FastifyRequest, action: InstanceAction, outcome: Outcome | undefined): object {
  return {
    action: action.action,
    instance_uuid: action.server_id,
    request_id: action.request_id,
    user_id: action.user_id,
    project_id: action.project_id,
    start_time: presentTime(action.started_at),
    message: outcome?.failure ? 'Error' : null,
    ...(has(request, 'instance-action-paging') ? { updated_at: presentTime(updatedAt(action, outcome)) } : {}),
  };
}

/** Until 2.50 events are for admins alone. */
function mayShowEvents(request: FastifyRequest): boolean {
  return contextOf(request).isAdmin || has(request, 'instance-action-events');
}

/** An operation of ours is one event; its failure's text, which is written for users, stands for Nova's details. */
function presentEvent(
  request: FastifyRequest,
  server: Server,
  { action, started_at }: InstanceAction,
  outcome: Outcome | undefined,
): object {
  const { isAdmin } = contextOf(request);
  const endedAt = outcome?.endedAt ?? null;
  const result = outcome?.failure ? 'Error' : 'Success';
  return {
    event: eventNames[action] ?? `compute_${action}_instance`,
    start_time: presentTime(started_at),
    finish_time: endedAt && presentTime(endedAt),
    result: endedAt && result,
    ...(isAdmin ? { traceback: null } : {}),
    ...(has(request, 'instance-action-hosts') && isAdmin ? { host: server.host } : {}),
    ...(has(request, 'instance-action-hosts') ? { hostId: hostIdOf(server) } : {}),
    ...(has(request, 'instance-action-details') ? { details: outcome?.failure?.message ?? null } : {}),
  };
}

/** Nova's, where they are not `compute_ACTION_instance`. */
const eventNames: Readonly<Record<string, string>> = {
  create: 'compute__do_build_and_run_instance',
  delete: 'compute_terminate_instance',
  resize: 'compute_finish_resize',
  confirmResize: 'compute_confirm_resize',
  revertResize: 'compute_finish_revert_resize',
  createImage: 'compute_snapshot_instance',
  shelveOffload: 'compute_shelve_offload_instance',
  attach_volume: 'compute_attach_volume',
  detach_volume: 'compute_detach_volume',
  extend_volume: 'compute_extend_volume',
};
