import type { FastifyRequest } from 'fastify';
import { type Paging, pageOf, readPaging, type SortValues } from '#api/block-storage/paging.ts';
import { allowed } from '#api/block-storage/policy.ts';
import { visibleSpecs } from '#api/block-storage/type-presenter.ts';
import { Query } from '#api/query.ts';
import { badRequest, shorten } from '#core/errors.ts';
import type { Queryable } from '#db/database.ts';
import { listVolumeTypes, type VolumeType } from '#db/volume-types.ts';

const sortValues: SortValues<VolumeType> = {
  id: ({ id }) => id,
  name: ({ name }) => name,
  description: ({ description }) => description,
  is_public: (type) => Number(type.is_public),
  created_at: ({ created_at }) => created_at.getTime(),
  updated_at: ({ updated_at }) => updated_at?.getTime() ?? null,
};

/** The page of volume types that a list request asks for, of those the caller may see. @throws bad-request (400). */
export async function selectTypes(
  request: FastifyRequest,
  db: Queryable,
): Promise<{ types: VolumeType[]; paging: Paging }> {
  const context = allowed(request, 'volume_extension:type_get_all');
  const query = new Query(request);
  const paging = readPaging(query);
  const which = context.isAdmin ? whichTypes(query.text('is_public')) : 'public';
  const wanted = wantedSpecs(query.text('extra_specs'));
  const types = (await listVolumeTypes(db, which, context.projectId)).filter((type) => {
    // What the caller may not see it may not ask for either.
    const specs = visibleSpecs(type.extra_specs, context);
    return wanted.every(([key, value]) => Object.hasOwn(specs, key) && specs[key] === value);
  });
  return { types: pageOf(types, paging, sortValues), paging };
}

function whichTypes(isPublic: string | null): 'public' | 'private' | 'all' {
  const word = isPublic?.trim().toLowerCase() ?? 'true';
  if (word === 'none') return 'all';
  if (['1', 't', 'true', 'on', 'y', 'yes'].includes(word)) return 'public';
  if (['0', 'f', 'false', 'off', 'n', 'no'].includes(word)) return 'private';
  throw badRequest(`Invalid is_public filter [${shorten(word, 64)}]`);
}

/** Pairs of what clients send for extra specs: a dictionary as Python writes it, `{'key': 'value'}`. */
function wantedSpecs(text: string | null): [string, string][] {
  if (text === null) return [];
  const pair = /\s*u?(?:'([^'\\]*)'|"([^"\\]*)")\s*:\s*u?(?:'([^'\\]*)'|"([^"\\]*)")\s*(?:,|$)/y;
  const inner = /^\s*\{(.*)\}\s*$/s.exec(text)?.[1]?.trim();
  if (inner === undefined) throw invalidSpecs(text);
  const pairs: [string, string][] = [];
  while (pair.lastIndex < inner.length) {
    const match = pair.exec(inner);
    if (!match) throw invalidSpecs(text);
    pairs.push([match[1] ?? match[2] ?? '', match[3] ?? match[4] ?? '']);
  }
  return pairs;
}

function invalidSpecs(text: string): Error {
  return badRequest(`Invalid extra_specs filter [${shorten(text, 64)}]`);
}
