import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox';
import type { FastifyRequest } from 'fastify';
import { callerOf } from '#api/auth.ts';
import { buildCatalog, PROJECT_PLACE } from '#api/catalog.ts';
import { type IdentityDependencies, v3Url } from '#api/identity/dependencies.ts';
import { type IdentityAction, identityPolicy } from '#api/identity/policy.ts';
import { presentDomain, presentList } from '#api/identity/presenters.ts';
import { idParams } from '#api/identity/schemas.ts';
import { enforce } from '#api/policy.ts';
import { publicUrlOf } from '#api/public-url.ts';
import { notFound } from '#core/errors.ts';

type Item = { readonly id: string; readonly [field: string]: unknown };
type Collection = {
  readonly kind: string;
  readonly list: IdentityAction;
  readonly get: IdentityAction;
  readonly items: (request: FastifyRequest, deps: IdentityDependencies) => Item[];
};

/** Read-only collections, made from what is configured. Lists can be filtered by any field. */
const collections: Readonly<Record<string, Collection>> = {
  domains: {
    kind: 'domain',
    list: 'identity:list_domains',
    get: 'identity:get_domain',
    items: (request, deps) => [presentDomain(v3Url(request, deps)) as Item],
  },
  services: {
    kind: 'service',
    list: 'identity:list_services',
    get: 'identity:get_service',
    items: (request, deps) => catalogOf(request, deps).map(({ id, type, name }) => ({ id, type, name, enabled: true })),
  },
  endpoints: {
    kind: 'endpoint',
    list: 'identity:list_endpoints',
    get: 'identity:get_endpoint',
    items: (request, deps) =>
      catalogOf(request, deps).flatMap(({ id, endpoints }) =>
        endpoints.map((endpoint) => ({ ...endpoint, service_id: id, enabled: true })),
      ),
  },
  regions: {
    kind: 'region',
    list: 'identity:list_regions',
    get: 'identity:get_region',
    items: (_, deps) => [{ id: deps.region, description: '', parent_region_id: null }],
  },
};

/** Domains, services, endpoints and regions. See Identity API v3, "Service catalog and endpoints". */
export function catalogRoutes(deps: IdentityDependencies): FastifyPluginAsyncTypebox {
  return async (app) => {
    for (const [name, collection] of Object.entries(collections)) {
      app.get(`/${name}`, async (request) => {
        enforce(identityPolicy, collection.list, callerOf(request));
        const found = collection.items(request, deps).filter((item) => matches(item, request.query as object));
        return presentList(name, found, `${v3Url(request, deps)}/${name}`);
      });
      app.get(`/${name}/:id`, { schema: { params: idParams } }, async (request) => {
        enforce(identityPolicy, collection.get, callerOf(request));
        const item = collection.items(request, deps).find((one) => one.id === request.params.id);
        if (!item) throw notFound(`The ${collection.kind}`, request.params.id);
        return { [collection.kind]: item };
      });
    }
  };
}

function catalogOf(request: FastifyRequest, deps: IdentityDependencies) {
  const publicUrl = publicUrlOf(request, deps.publicUrl);
  return buildCatalog(deps.services, { region: deps.region, publicUrl, project: PROJECT_PLACE });
}

function matches(item: Item, query: object): boolean {
  return Object.entries(query).every(
    ([field, wanted]) => !Object.hasOwn(item, field) || String(item[field]) === wanted,
  );
}
