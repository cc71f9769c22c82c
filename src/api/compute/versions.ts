import type { FastifyRequest } from 'fastify';
import { MAX_MICROVERSION, MIN_MICROVERSION } from '#api/compute/microversions.ts';
import { publicUrlOf } from '#api/public-url.ts';

/** Where the one version of the API starts. */
export const V21_PATH = '/compute/v2.1';

/** Version discovery: all versions, of which there is one. See Compute API "API Versions". */
export function presentVersions(request: FastifyRequest, publicUrl: string | null): object {
  const { 'media-types': _, links, ...version } = v21(request, publicUrl);
  return { versions: [{ ...version, links: links.slice(0, 1) }] };
}

/** The version document of v2.1. */
export function presentVersion(request: FastifyRequest, publicUrl: string | null): object {
  return { version: v21(request, publicUrl) };
}

/** The answer to a path that names no version: what there is to choose from. */
export function presentChoices(request: FastifyRequest, publicUrl: string | null, rest: string): object {
  const { id, status, 'media-types': mediaTypes } = v21(request, publicUrl);
  const href = `${publicUrlOf(request, publicUrl)}${V21_PATH}/${rest}`;
  return { choices: [{ id, status, 'media-types': mediaTypes, links: [{ rel: 'self', href }] }] };
}

function v21(request: FastifyRequest, publicUrl: string | null) {
  return {
    id: 'v2.1',
    status: 'CURRENT',
    version: `2.${MAX_MICROVERSION}`,
    min_version: `2.${MIN_MICROVERSION}`,
    updated: '2013-07-23T11:33:21Z',
    links: [
      { rel: 'self', href: `${publicUrlOf(request, publicUrl)}${V21_PATH}/` },
      { rel: 'describedby', type: 'text/html', href: 'https://docs.openstack.org/api-ref/compute/' },
    ],
    'media-types': [{ base: 'application/json', type: 'application/vnd.openstack.compute+json;version=2.1' }],
  };
}
