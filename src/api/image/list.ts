import { baseFields } from '#api/image/schemas.ts';
import { badRequest, shorten } from '#core/errors.ts';
import type { Image } from '#core/image.ts';

export type ImageQuery = Readonly<Record<string, string>>;

const DEFAULT_LIMIT = 25;
const MAX_LIMIT = 1000;

type Field = (image: Image) => string | number;
const sortable: Readonly<Record<string, Field>> = {
  name: (image) => image.name ?? '',
  status: (image) => image.status,
  container_format: (image) => image.containerFormat ?? '',
  disk_format: (image) => image.diskFormat ?? '',
  size: (image) => image.sizeBytes ?? 0,
  id: (image) => image.id,
  created_at: (image) => image.createdAt.getTime(),
  updated_at: (image) => image.updatedAt.getTime(),
};

type Filter = (image: Image, wanted: string) => boolean;
const filters: Readonly<Record<string, Filter>> = {
  name: (image, wanted) => oneOf(image.name ?? '', wanted),
  id: (image, wanted) => oneOf(image.id, wanted),
  status: (image, wanted) => oneOf(image.status, wanted),
  disk_format: (image, wanted) => oneOf(image.diskFormat ?? '', wanted),
  container_format: (image, wanted) => oneOf(image.containerFormat ?? '', wanted),
  owner: (image, wanted) => image.projectId === wanted,
  visibility: (image, wanted) => wanted === 'all' || image.visibility === wanted,
  checksum: (image, wanted) => image.md5 === wanted,
  os_hash_value: (image, wanted) => image.sha512 === wanted,
  protected: (image, wanted) => image.protected === flag('protected', wanted),
  os_hidden: (image, wanted) => image.hidden === flag('os_hidden', wanted),
  tag: (image, wanted) => image.tags.includes(wanted),
  min_disk: (image, wanted) => image.minDiskGib === count('min_disk', wanted),
  min_ram: (image, wanted) => image.minRamMib === count('min_ram', wanted),
  size_min: (image, wanted) => (image.sizeBytes ?? 0) >= count('size_min', wanted),
  size_max: (image, wanted) => (image.sizeBytes ?? 0) <= count('size_max', wanted),
};
/** Parameters that are no filters. */
const paging = new Set(['limit', 'marker', 'sort', 'sort_key', 'sort_dir', 'member_status']);

/** One page of images. `next`: the marker of the page after it, null at the end. */
export type Page = { readonly images: readonly Image[]; readonly next: string | null };

/**
 * Filters, sorts and cuts a page as Glance's list does: hidden images, and community images of other projects, only when
 * asked for. @throws bad-request for a parameter that makes no sense.
 */
export function pageOf(images: readonly Image[], query: ImageQuery, projectId: string): Page {
  const wanted = Object.entries({ os_hidden: 'false', ...query }).filter(([key]) => !paging.has(key));
  const found = images.filter(
    (image) => isListed(image, query, projectId) && wanted.every(([key, value]) => passes(image, key, value)),
  );
  found.sort(comparator(query));
  const start = startOf(found, images, query.marker);
  const limit = Math.min(query.limit === undefined ? DEFAULT_LIMIT : count('limit', query.limit), MAX_LIMIT);
  const page = found.slice(start, start + limit);
  const last = page.at(-1);
  return { images: page, next: last && start + limit < found.length ? last.id : null };
}

function isListed(image: Image, query: ImageQuery, projectId: string): boolean {
  if (image.visibility !== 'community' || image.projectId === projectId) return true;
  return query.visibility === 'community' || query.visibility === 'all';
}

function passes(image: Image, key: string, value: string): boolean {
  const filter = Object.hasOwn(filters, key) ? filters[key] : undefined;
  if (filter) return filter(image, value);
  if (baseFields.includes(key)) throw badRequest(`Images cannot be filtered by ${key}.`);
  return Object.hasOwn(image.properties, key) && image.properties[key] === value;
}

function startOf(found: readonly Image[], all: readonly Image[], marker: string | undefined): number {
  if (marker === undefined) return 0;
  const index = found.findIndex((image) => image.id === marker);
  if (index >= 0) return index + 1;
  if (all.some((image) => image.id === marker)) return found.length;
  throw badRequest(`The marker ${shorten(marker, 64)} is not an image. Start again without a marker.`);
}

function comparator(query: ImageQuery): (a: Image, b: Image) => number {
  const keys = sortKeys(query);
  return (a, b) => {
    for (const { field, sign } of keys) {
      const [left, right] = [field(a), field(b)];
      if (left !== right) return left < right ? -sign : sign;
    }
    return a.id < b.id ? 1 : -1;
  };
}

/** From `sort=name:asc,size`, or `sort_key` and `sort_dir`. */
function sortKeys(query: ImageQuery): { field: Field; sign: 1 | -1 }[] {
  const sort = query.sort ?? `${query.sort_key ?? 'created_at'}:${query.sort_dir ?? 'desc'}`;
  return sort.split(',').map((part) => {
    const [key = '', direction = 'desc'] = part.split(':');
    const field = Object.hasOwn(sortable, key) ? sortable[key] : undefined;
    if (!field) throw badRequest(`Images cannot be sorted by '${shorten(key, 64)}'.`);
    if (direction !== 'asc' && direction !== 'desc') throw badRequest('The sort direction must be asc or desc.');
    return { field, sign: direction === 'asc' ? 1 : -1 };
  });
}

function oneOf(value: string, wanted: string): boolean {
  if (!wanted.startsWith('in:')) return value === wanted;
  return wanted
    .slice(3)
    .split(',')
    .some((one) => one.replace(/^"(.*)"$/, '$1') === value);
}

function flag(name: string, text: string): boolean {
  const word = text.toLowerCase();
  if (word === 'true' || word === '1') return true;
  if (word === 'false' || word === '0') return false;
  throw badRequest(`The filter ${name} must be true or false.`);
}

function count(name: string, text: string): number {
  if (!/^\d{1,15}$/.test(text)) throw badRequest(`${name} must be a whole number, not negative.`);
  return Number(text);
}
