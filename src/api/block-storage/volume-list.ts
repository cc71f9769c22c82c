import type { FastifyRequest } from 'fastify';
import type { RequestContext } from '#api/auth.ts';
import { flagFrom } from '#api/block-storage/fields.ts';
import { type Paging, pageOf, pagingParameters, readPaging, type SortValues } from '#api/block-storage/paging.ts';
import { Query } from '#api/query.ts';
import { badRequest, shorten } from '#core/errors.ts';
import type { ProjectId } from '#core/ids.ts';
import type { Database } from '#db/database.ts';
import { listSnapshots, type Snapshot } from '#db/snapshots.ts';
import { listVolumes, type Volume } from '#db/volumes.ts';

/** A page of a list, and how many there are on all pages. */
export type Listed<Item> = {
  readonly items: readonly Item[];
  readonly count: number;
  readonly paging: Paging;
  readonly withCount: boolean;
};

/** What both volumes and snapshots are sorted and restricted by. */
type Common = Pick<Volume, 'name' | 'metadata' | 'created_at' | 'updated_at'> & {
  readonly id: string;
  readonly status: string;
};

const commonOrder = {
  id: ({ id }) => id,
  name: ({ name }) => name,
  display_name: ({ name }) => name,
  status: ({ status }) => status,
  created_at: ({ created_at }) => created_at.getTime(),
  updated_at: ({ updated_at }) => updated_at.getTime(),
} satisfies SortValues<Common>;

const volumeOrder: SortValues<Volume> = {
  ...commonOrder,
  size: ({ size_gib }) => size_gib,
  host: ({ host }) => host,
  volume_type_id: ({ volume_type_id }) => volume_type_id,
  bootable: ({ bootable }) => String(bootable),
  availability_zone: ({ availability_zone }) => availability_zone,
};

const snapshotOrder: SortValues<Snapshot> = {
  ...commonOrder,
  volume_id: ({ volume_id }) => volume_id,
  volume_size: ({ size_gib }) => size_gib,
};

type Filter<Item> = (text: string) => (item: Item) => boolean;
type Filters<Item> = Readonly<Record<string, Filter<Item>>>;

/** Lets pass what has exactly this text there. */
function equals<Item>(textOf: (item: Item) => string | null): Filter<Item> {
  return (text) => (item) => textOf(item) === text;
}

const commonFilters = {
  id: equals(({ id }: { readonly id: string }) => id),
  name: equals(({ name }: Pick<Common, 'name'>) => name),
  display_name: equals(({ name }: Pick<Common, 'name'>) => name),
  status: equals(({ status }: Pick<Common, 'status'>) => status),
  metadata: (text: string) => {
    const wanted = Object.entries(metadataFrom(text));
    return ({ metadata }: Pick<Common, 'metadata'>) => wanted.every(([key, value]) => metadata[key] === value);
  },
};

const comparisons: Readonly<Record<string, (is: number, asked: number) => boolean>> = {
  gt: (is, asked) => is > asked,
  gte: (is, asked) => is >= asked,
  lt: (is, asked) => is < asked,
  lte: (is, asked) => is <= asked,
  eq: (is, asked) => is === asked,
  neq: (is, asked) => is !== asked,
};

/** Times that this one is compared with, such as `gt:2026-11-01T00:00:00,lt:2026-12-01T00:00:00`; from 3.60 in Cinder. */
function withinTime<Item>(timeOf: (item: Item) => Date): Filter<Item> {
  return (text) => {
    const wanted = text.split(',').map(comparisonFrom);
    return (item) => wanted.every((holds) => holds(timeOf(item).getTime()));
  };
}

/** Without a zone it is UTC. @throws bad-request. */
function comparisonFrom(part: string): (is: number) => boolean {
  const [, operator = 'eq', time = ''] = /^\s*(?:([a-z]+):)?\s*(\S+)\s*$/.exec(part) ?? [];
  const compare = Object.hasOwn(comparisons, operator) ? comparisons[operator] : undefined;
  const hasZone = /(Z|[+-]\d\d:?\d\d)$/.test(time);
  const asked = /^\d{4}-\d\d-\d\d/.test(time)
    ? Date.parse(hasZone || !time.includes('T') ? time : `${time}Z`)
    : Number.NaN;
  if (!compare || Number.isNaN(asked)) {
    throw badRequest(`Invalid filter: '${shorten(part, 64)}' is no time, nor gt, gte, lt, lte, eq or neq of one.`);
  }
  return (is) => compare(is, asked);
}

/** What a list of volumes can be restricted by. */
export const volumeFilters: Filters<Volume> = {
  ...commonFilters,
  availability_zone: equals(({ availability_zone }) => availability_zone),
  bootable: (text) => {
    const wanted = bootableFrom(text);
    return ({ bootable }) => bootable === wanted;
  },
  size: equals(({ size_gib }) => String(size_gib)),
  created_at: withinTime(({ created_at }) => created_at),
  updated_at: withinTime(({ updated_at }) => updated_at),
  migration_status: equals(({ migration_status }) => migration_status ?? ''),
  volume_type_id: equals(({ volume_type_id }) => volume_type_id),
  encryption_key_id: () => () => false,
  host:
    (text) =>
    ({ host, backend }) =>
      host !== null && (`${host}@${backend}` === text.split('#')[0] || host === text),
};

export const snapshotFilters: Filters<Snapshot> = {
  ...commonFilters,
  volume_id: equals(({ volume_id }) => volume_id),
};

/** The page of volumes a request asks for, of those the caller may see. @throws bad-request. */
export async function volumesFor(
  request: FastifyRequest,
  db: Database,
  context: RequestContext,
): Promise<Listed<Volume>> {
  return await listed(request, context, {
    load: (projectId) => listVolumes(db, projectId),
    filters: volumeFilters,
    order: volumeOrder,
  });
}

/** As `volumesFor`, of snapshots. */
export async function snapshotsFor(
  request: FastifyRequest,
  db: Database,
  context: RequestContext,
): Promise<Listed<Snapshot>> {
  return await listed(request, context, {
    load: (projectId) => listSnapshots(db, projectId),
    filters: snapshotFilters,
    order: snapshotOrder,
  });
}

type Kind<Item> = {
  readonly load: (projectId: ProjectId | null) => Promise<Item[]>;
  readonly filters: Filters<Item>;
  readonly order: SortValues<Item>;
};

/** An admin may ask for all projects, or for one; who else does so gets what is its own, as in Cinder. */
async function listed<Item extends { readonly id: string; readonly project_id: ProjectId }>(
  request: FastifyRequest,
  context: RequestContext,
  { load, filters, order }: Kind<Item>,
): Promise<Listed<Item>> {
  const query = new Query(request);
  const paging = readPaging(query);
  const isEverywhere = context.isAdmin && flagFrom('all_tenants', query.text('all_tenants'));
  const project = query.text('project_id');
  const tests = query.names
    .filter((name) => !pagingParameters.includes(name) && !['all_tenants', 'project_id', 'with_count'].includes(name))
    .flatMap((name) => (Object.hasOwn(filters, name) ? [filters[name]?.(query.text(name) ?? '')] : []));
  const all = await load(isEverywhere ? null : context.projectId);
  const fitting = all.filter(
    (item) =>
      (project === null || !isEverywhere || item.project_id === project) && tests.every((test) => test?.(item) ?? true),
  );
  const items = paging.limit === 0 ? [] : pageOf(fitting, paging, order);
  return { items, count: fitting.length, paging, withCount: flagFrom('with_count', query.text('with_count')) };
}

function bootableFrom(text: string): boolean {
  const word = text.trim().toLowerCase();
  if (word === 'true' || word === '1') return true;
  if (word === 'false' || word === '0') return false;
  throw badRequest(`Invalid input received: bootable={'filters': '${word.slice(0, 64)}'}`);
}

/** As clients write it: JSON, or a Python dictionary of texts. */
function metadataFrom(text: string): Readonly<Record<string, string>> {
  for (const form of [text, text.replaceAll("u'", "'").replaceAll("'", '"')]) {
    try {
      const value: unknown = JSON.parse(form);
      if (typeof value === 'object' && value !== null && !Array.isArray(value)) {
        return Object.fromEntries(Object.entries(value).map(([key, each]) => [key, String(each)]));
      }
    } catch {
      // The other form, then.
    }
  }
  throw badRequest('Invalid filter metadata: it must be a dictionary of texts.');
}
