import type { FastifyRequest } from 'fastify';
import type { RequestContext } from '#api/auth.ts';
import { has } from '#api/compute/microversions.ts';
import { computePolicy } from '#api/compute/policy.ts';
import { enforce } from '#api/policy.ts';
import { invalid, type Query } from '#api/query.ts';
import { badRequest, NightlatchError, shorten } from '#core/errors.ts';
import { apiStatus, type PowerState, powerStates, type TaskState, taskStates, vmStates } from '#core/server.ts';
import type { ServerFilter, StateMatch } from '#db/server-list.ts';

/** Every parameter of a server list. `host`, `node`, `deleted` count from admins only, as in Nova. */
export const serverListParameters: readonly string[] = [
  ...['name', 'status', 'image', 'flavor', 'reservation_id', 'uuid', 'key_name', 'user_id', 'locked'],
  ...['changes-since', 'changes-before', 'created_at', 'vm_state', 'task_state', 'power_state'],
  ...['tags', 'tags-any', 'not-tags', 'not-tags-any', 'ip', 'ip6', 'availability_zone', 'config_drive'],
  ...['host', 'node', 'deleted', 'project_id', 'tenant_id', 'all_tenants', 'description', 'hostname'],
  ...['limit', 'marker', 'sort_key', 'sort_dir'],
];

/** What a list request restricts the list to; null: nothing can match. @throws bad-request; refused; forbidden. */
export function serverFilter(request: FastifyRequest, query: Query, context: RequestContext): ServerFilter | null {
  // Servers have no addresses here, so none has this one.
  if (query.text('ip') || query.text('ip6')) return null;
  return {
    ...optional('projectId', projectFrom(query, context)),
    ...optional('namePattern', query.text('name') || null),
    ...optional('states', statesFrom(request, query, context)),
    ...optional('vmState', query.text('vm_state')),
    ...optional('taskState', query.text('task_state')),
    ...optional('powerState', powerStateFrom(query)),
    ...optional('imageId', query.text('image')),
    ...optional('flavorId', query.text('flavor')),
    ...optional('reservationId', query.text('reservation_id')),
    ...optional('keyName', query.text('key_name')),
    ...optional('userId', query.text('user_id')),
    ...optional('id', query.text('uuid')),
    ...optional('host', context.isAdmin ? (query.text('host') ?? query.text('node')) : null),
    ...optional('locked', has(request, 'locked-reason') ? flagFrom(query, 'locked') : null),
    ...optional('changedSince', query.time('changes-since')),
    ...optional('changedBefore', has(request, 'changes-before') ? query.time('changes-before') : null),
    ...optional('createdAt', query.time('created_at')),
    ...(has(request, 'server-tags') ? tagsFrom(query) : {}),
    deleted: deletedFrom(query, context),
  };
}

/** Null: of every project. */
function projectFrom(query: Query, context: RequestContext): string | null {
  // Without a value it means yes, as in `?all_tenants`.
  const everyone = query.text('all_tenants') === '' || flagFrom(query, 'all_tenants') === true;
  if (!everyone) return context.projectId;
  enforce(computePolicy, 'os_compute_api:servers:index:get_all_tenants', context);
  return query.text('project_id') ?? query.text('tenant_id');
}

function deletedFrom(query: Query, context: RequestContext): ServerFilter['deleted'] {
  const asked = context.isAdmin ? flagFrom(query, 'deleted') : null;
  if (asked !== null) return asked ? 'only' : 'no';
  if (query.all('status').some((status) => status.toUpperCase() === 'DELETED')) return 'only';
  return query.text('changes-since') === null ? 'no' : 'both';
}

function statesFrom(request: FastifyRequest, query: Query, context: RequestContext): StateMatch[] | null {
  const asked = query.all('status').map((status) => status.toUpperCase());
  if (asked.length === 0) return null;
  if (asked.includes('DELETED') && !context.isAdmin) {
    throw new NightlatchError('refused', { reason: 'Only administrators may list deleted instances' });
  }
  const everyTask: (TaskState | null)[] = [null, ...taskStates];
  const matches = vmStates
    .map((vmState) => ({
      vmState,
      taskStates: everyTask.filter((task) => asked.includes(apiStatus(vmState, task))),
    }))
    .filter((match) => match.taskStates.length > 0);
  if (matches.length === 0 && has(request, 'unknown-status-refused')) throw badRequest('Invalid filter status value');
  return matches;
}

function powerStateFrom(query: Query): PowerState | null {
  const number = query.count('power_state');
  if (number === null) return null;
  const [name] = Object.entries(powerStates).find(([, value]) => value === number) ?? [];
  if (name === undefined) throw invalid('power_state', `is ${number}, which is no power state`);
  return name as PowerState;
}

function tagsFrom(query: Query): Partial<ServerFilter> {
  const list = (name: string): string[] | null => query.text(name)?.split(',') ?? null;
  return {
    ...optional('allTags', list('tags')),
    ...optional('anyTags', list('tags-any')),
    ...optional('notAllTags', list('not-tags')),
    ...optional('notAnyTags', list('not-tags-any')),
  };
}

function flagFrom(query: Query, name: string): boolean | null {
  const word = query.text(name)?.trim().toLowerCase();
  if (word === undefined) return null;
  if (['1', 't', 'true', 'on', 'y', 'yes'].includes(word)) return true;
  if (['0', 'f', 'false', 'off', 'n', 'no', ''].includes(word)) return false;
  throw invalid(name, `is '${shorten(word, 64)}', which is neither true nor false`);
}

function optional<Key extends string, Value>(key: Key, value: Value | null): { [K in Key]?: Value } {
  return value === null ? {} : ({ [key]: value } as { [K in Key]?: Value });
}
