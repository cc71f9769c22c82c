import type { FastifyRequest } from 'fastify';
import { contextOf } from '#api/auth.ts';
import { V3_PATH } from '#api/block-storage/versions.ts';
import { type Link, nextPageLinks, type Page } from '#api/links.ts';
import { publicUrlOf } from '#api/public-url.ts';

/** The link to a thing, such as `volumes/ID`, with its version, and the one that outlasts versions. */
export function linksTo(request: FastifyRequest, publicUrl: string | null, path: string): Link[] {
  const base = publicUrlOf(request, publicUrl);
  const { projectId } = contextOf(request);
  return [
    { rel: 'self', href: `${base}${V3_PATH}/${projectId}/${path}` },
    { rel: 'bookmark', href: `${base}/volume/${projectId}/${path}` },
  ];
}

/** The link to the next page of a collection, such as `volumes/detail`, when the page is full. */
export function nextPage(
  request: FastifyRequest,
  publicUrl: string | null,
  { path, ...page }: Page & { readonly path: string },
): Link[] {
  const { projectId } = contextOf(request);
  return nextPageLinks(request, `${publicUrlOf(request, publicUrl)}${V3_PATH}/${projectId}/${path}`, page);
}
