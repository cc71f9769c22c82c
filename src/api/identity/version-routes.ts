import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox';
import { type IdentityDependencies, v3Url } from '#api/identity/dependencies.ts';

const open = { config: { public: true } };

/** Version discovery. See Identity API v3, "API versions". */
export function versionRoutes(deps: IdentityDependencies): FastifyPluginAsyncTypebox {
  return async (app) => {
    app.get('/', open, async (request, reply) => {
      return reply.status(300).send({ versions: { values: [version(v3Url(request, deps))] } });
    });
    app.get('/v3', open, async (request) => ({ version: version(v3Url(request, deps)) }));
  };
}

function version(url: string): object {
  return {
    id: 'v3.14',
    status: 'stable',
    updated: '2020-04-07T00:00:00Z',
    links: [{ rel: 'self', href: `${url}/` }],
    'media-types': [{ base: 'application/json', type: 'application/vnd.openstack.identity-v3+json' }],
  };
}
