import type { FastifyRequest } from 'fastify';
import { allowed } from '#api/compute/policy.ts';
import { refuseUnknownParameters } from '#api/compute/strict-query.ts';
import { invalid, Query } from '#api/query.ts';
import { badRequest, shorten } from '#core/errors.ts';
import type { Queryable } from '#db/database.ts';
import { type Flavor, listFlavors } from '#db/flavors.ts';

const PARAMETERS = ['limit', 'marker', 'is_public', 'minRam', 'minDisk', 'sort_key', 'sort_dir'];

const sortKeys: Readonly<Record<string, (flavor: Flavor) => string | number>> = {
  flavorid: (flavor) => flavor.id,
  id: (flavor) => flavor.id,
  name: (flavor) => flavor.name,
  memory_mb: (flavor) => flavor.ram_mib,
  vcpus: (flavor) => flavor.vcpus,
  root_gb: (flavor) => flavor.root_gib,
  ephemeral_gb: (flavor) => flavor.ephemeral_gib,
  swap: (flavor) => flavor.swap_mib,
  rxtx_factor: (flavor) => flavor.rxtx_factor,
  is_public: (flavor) => Number(flavor.is_public),
  disabled: (flavor) => Number(flavor.disabled),
  created_at: (flavor) => flavor.created_at.getTime(),
  updated_at: (flavor) => flavor.created_at.getTime(),
  vcpu_weight: () => 0,
};

/** The page of flavors that a list request asks for, of those the caller may see. @throws bad-request (400). */
export async function selectFlavors(
  request: FastifyRequest,
  db: Queryable,
): Promise<{ flavors: Flavor[]; limit: number }> {
  const context = allowed(request, 'os_compute_api:flavors');
  const query = new Query(request);
  refuseUnknownParameters(request, query, PARAMETERS);
  const minRam = query.count('minRam') ?? 0;
  const minDisk = query.count('minDisk') ?? 0;
  const limit = query.limit();
  const which = context.isAdmin ? whichFlavors(query.text('is_public')) : 'public';
  const all = await listFlavors(db, which, context.projectId);
  const wanted = all.filter((flavor) => flavor.ram_mib >= minRam && flavor.root_gib >= minDisk);
  const sorted = sortFlavors(wanted, query.text('sort_key') ?? 'flavorid', query.text('sort_dir') ?? 'asc');
  return { flavors: pageAfter(sorted, query.text('marker'), limit), limit };
}

function whichFlavors(isPublic: string | null): 'public' | 'private' | 'all' {
  const word = isPublic?.trim().toLowerCase() ?? 'true';
  if (word === 'none') return 'all';
  if (['1', 't', 'true', 'on', 'y', 'yes'].includes(word)) return 'public';
  if (['0', 'f', 'false', 'off', 'n', 'no'].includes(word)) return 'private';
  throw badRequest(`Invalid is_public filter [${shorten(word, 64)}]`);
}

function sortFlavors(flavors: readonly Flavor[], key: string, direction: string): Flavor[] {
  const rank = Object.hasOwn(sortKeys, key) ? sortKeys[key] : undefined;
  if (!rank) throw invalid('sort_key', `is '${shorten(key, 64)}', which cannot be sorted by`);
  if (direction !== 'asc' && direction !== 'desc') throw invalid('sort_dir', 'must be asc or desc');
  const sign = direction === 'asc' ? 1 : -1;
  const compare = (a: string | number, b: string | number): number => (a < b ? -1 : a > b ? 1 : 0);
  return flavors.toSorted((a, b) => sign * compare(rank(a), rank(b)) || compare(a.id, b.id));
}

function pageAfter(flavors: readonly Flavor[], marker: string | null, limit: number): Flavor[] {
  if (marker === null) return flavors.slice(0, limit);
  const at = flavors.findIndex((flavor) => flavor.id === marker);
  if (at < 0) throw badRequest(`marker [${shorten(marker)}] not found`);
  return flavors.slice(at + 1, at + 1 + limit);
}
