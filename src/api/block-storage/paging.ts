import { MAX_LIMIT, type Query } from '#api/query.ts';
import { badRequest, notFound, shorten } from '#core/errors.ts';

/** What of a list a request asks for, in which order. See Block Storage API v3, "Pagination" and "Sorting". */
export type Paging = {
  readonly limit: number;
  readonly offset: number;
  readonly marker: string | null;
  readonly sort: readonly SortKey[];
};
export type SortKey = { readonly key: string; readonly direction: 'asc' | 'desc' };

const MAX_OFFSET = 2 ** 31 - 1;

/** The parameters of a query that say which page it asks for; they are no filters. */
export const pagingParameters: readonly string[] = ['limit', 'offset', 'marker', 'sort', 'sort_key', 'sort_dir'];

/** Reads which page is asked for; newest first when nothing is said. @throws bad-request (400) with Cinder's words. */
export function readPaging(query: Query, defaultKey = 'created_at'): Paging {
  return {
    limit: Math.min(wholeNumber(query.text('limit'), 'limit') ?? MAX_LIMIT, MAX_LIMIT),
    offset: readOffset(query.text('offset')),
    marker: query.text('marker'),
    sort: readSort(query, defaultKey),
  };
}

function wholeNumber(text: string | null, name: string): number | null {
  if (text === null) return null;
  if (!/^\s*[+-]?\d{1,30}\s*$/.test(text)) throw badRequest(`${name} param must be an integer`);
  const number = Number(text);
  if (number < 0) throw badRequest(`${name} param must be positive`);
  return number;
}

function readOffset(text: string | null): number {
  const offset = wholeNumber(text, 'offset') ?? 0;
  if (offset > MAX_OFFSET) throw badRequest(`offset must be <= ${MAX_OFFSET}`);
  return offset;
}

function readSort(query: Query, defaultKey: string): SortKey[] {
  const sort = query.text('sort');
  const [key, direction] = [query.text('sort_key'), query.text('sort_dir')];
  if (sort === null) return [sortKey(key ?? defaultKey, direction ?? 'desc')];
  if (key !== null || direction !== null) {
    throw badRequest(
      "The 'sort_key' and 'sort_dir' parameters are deprecated and cannot be used with the 'sort' parameter.",
    );
  }
  return sort.split(',').map((part) => {
    const [name = '', way = ''] = part.split(':');
    return sortKey(name, way.trim() || 'desc');
  });
}

function sortKey(key: string, direction: string): SortKey {
  const way = direction.trim();
  if (way === 'asc' || way === 'desc') return { key: key.trim(), direction: way };
  throw badRequest(`Unknown sort direction '${shorten(way, 64)}', must be 'asc' or 'desc'`);
}

/** How the items of a list can be sorted: the value of each key. Missing values come first. */
export type SortValues<Item> = Readonly<Record<string, (item: Item) => string | number | null>>;

/**
 * The page of a list, sorted, of what comes after the marker. Of equal items the one with the lesser id comes first.
 * @throws bad-request (400) for a key there is not; not-found (404) for a marker that is none of the items.
 */
export function pageOf<Item extends { readonly id: string }>(
  items: readonly Item[],
  { limit, offset, marker, sort }: Paging,
  values: SortValues<Item>,
): Item[] {
  const ranks = sort.map(({ key, direction }) => {
    const value = Object.hasOwn(values, key) ? values[key] : undefined;
    if (!value) throw badRequest(`Sort key '${shorten(key, 64)}' is invalid.`);
    return { value, sign: direction === 'asc' ? 1 : -1 };
  });
  const sorted = items.toSorted((a, b) => {
    for (const { value, sign } of ranks) {
      const order = compare(value(a), value(b));
      if (order !== 0) return sign * order;
    }
    return compare(a.id, b.id);
  });
  const start = offset + (marker === null ? 0 : placeOf(sorted, marker) + 1);
  return sorted.slice(start, start + limit);
}

function placeOf(items: readonly { readonly id: string }[], marker: string): number {
  const at = items.findIndex(({ id }) => id === marker);
  if (at < 0) throw notFound('Marker', marker);
  return at;
}

function compare(a: string | number | null, b: string | number | null): number {
  if (a === b) return 0;
  if (a === null || b === null) return a === null ? -1 : 1;
  return a < b ? -1 : 1;
}
