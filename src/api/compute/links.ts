import type { FastifyRequest } from 'fastify';
import { V21_PATH } from '#api/compute/versions.ts';
import { type Link, nextPageLinks, type Page } from '#api/links.ts';
import { publicUrlOf } from '#api/public-url.ts';

/** The link to a thing with its version, and the one that outlasts versions. */
export function linksTo(request: FastifyRequest, publicUrl: string | null, path: string): Link[] {
  const base = publicUrlOf(request, publicUrl);
  return [
    { rel: 'self', href: `${base}${V21_PATH}/${path}` },
    { rel: 'bookmark', href: `${base}/compute/${path}` },
  ];
}

/** The link that outlasts versions alone. */
export function bookmarkTo(request: FastifyRequest, publicUrl: string | null, path: string): Link[] {
  return linksTo(request, publicUrl, path).slice(1);
}

/** The link to the next page, when the page is full: the same query, after the last item. */
export function nextPage(
  request: FastifyRequest,
  publicUrl: string | null,
  { path, ...page }: Page & { readonly path: string },
): Link[] {
  return nextPageLinks(request, `${publicUrlOf(request, publicUrl)}${V21_PATH}/${path}`, page);
}
