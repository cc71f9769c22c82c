import type { FastifyRequest } from 'fastify';

/** Where a thing lies, as the client reaches it. */
export type Link = { readonly rel: string; readonly href: string };

/** What of a list a page shows. */
export type Page = { readonly limit: number; readonly ids: readonly string[] };

/** The link to the page after this one, when this one is full: the same query at `href`, after its last item. */
export function nextPageLinks(request: FastifyRequest, href: string, { limit, ids }: Page): Link[] {
  const last = ids.at(-1);
  if (last === undefined || ids.length < limit) return [];
  const query = new URLSearchParams(request.url.split('?')[1] ?? '');
  query.delete('offset');
  query.set('marker', last);
  return [{ rel: 'next', href: `${href}?${query}` }];
}
