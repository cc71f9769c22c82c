import type { FastifyRequest } from 'fastify';
import { allowed } from '#api/compute/policy.ts';
import { serverFilter, serverListParameters } from '#api/compute/server-filter.ts';
import { refuseUnknownParameters } from '#api/compute/strict-query.ts';
import { invalid, Query } from '#api/query.ts';
import { badRequest, shorten } from '#core/errors.ts';
import type { Database } from '#db/database.ts';
import {
  BadPatternError,
  isMarker,
  type ServerOrder,
  type ServerSortKey,
  selectServers,
  serverSortKeys,
} from '#db/server-list.ts';
import type { Server } from '#db/servers.ts';

export type ServerSelection = { readonly servers: readonly Server[]; readonly limit: number };

/** The page of servers that a list request asks for, of those the caller may see. @throws bad-request; forbidden. */
export async function selectServersFor(request: FastifyRequest, db: Database): Promise<ServerSelection> {
  const context = allowed(request, 'os_compute_api:servers:detail');
  const query = new Query(request);
  refuseUnknownParameters(request, query, serverListParameters);
  const limit = query.limit();
  const filter = serverFilter(request, query, context);
  const order = orderFrom(query);
  const after = query.text('marker');
  if (after !== null && !(await isMarker(db, after, context.isAdmin ? null : context.projectId))) {
    throw badRequest(`marker [${shorten(after)}] not found`);
  }
  if (filter === null || limit === 0) return { servers: [], limit };
  try {
    return { servers: await selectServers(db, filter, { order, limit, after }), limit };
  } catch (error) {
    if (!(error instanceof BadPatternError)) throw error;
    throw invalid('name', 'is no regular expression, or one that takes too long to match');
  }
}

/** Newest first, unless asked otherwise; equals in the order of their ids, so that pages never overlap. */
function orderFrom(query: Query): ServerOrder {
  const keys = query.all('sort_key');
  const directions = query.all('sort_dir');
  const order = (keys.length > 0 ? keys : ['created_at']).map((key, i) => {
    const direction = directions[i] ?? directions.at(-1) ?? 'desc';
    if (!isSortKey(key)) throw invalid('sort_key', `is '${shorten(key, 64)}', which cannot be sorted by`);
    if (direction !== 'asc' && direction !== 'desc') throw invalid('sort_dir', 'must be asc or desc');
    return { key, direction } as const;
  });
  return order.some(({ key }) => key === 'uuid') ? order : [...order, { key: 'uuid', direction: 'desc' }];
}

function isSortKey(key: string): key is ServerSortKey {
  return (serverSortKeys as string[]).includes(key);
}
