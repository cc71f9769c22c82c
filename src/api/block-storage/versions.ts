import type { FastifyRequest } from 'fastify';
import { MAX_MICROVERSION, MIN_MICROVERSION } from '#api/block-storage/microversions.ts';
import { publicUrlOf } from '#api/public-url.ts';

/** Where the one version of the API starts. */
export const V3_PATH = '/volume/v3';

/** Version discovery: all versions, of which there is one. See Block Storage API v3 "API versions". */
export function presentVersions(request: FastifyRequest, publicUrl: string | null): object {
  const self = `${publicUrlOf(request, publicUrl)}${V3_PATH}/`;
  return {
    versions: [
      {
        id: 'v3.0',
        status: 'CURRENT',
        version: `3.${MAX_MICROVERSION}`,
        min_version: `3.${MIN_MICROVERSION}`,
        updated: '2022-08-31T00:00:00Z',
        links: [
          { rel: 'describedby', type: 'text/html', href: 'https://docs.openstack.org/api-ref/block-storage/v3/' },
          { rel: 'self', href: self },
        ],
        'media-types': [{ base: 'application/json', type: 'application/vnd.openstack.volume+json;version=3' }],
      },
    ],
  };
}
