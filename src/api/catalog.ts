import { createHash } from 'node:crypto';

/** The services we can offer, as the catalog names them. `path` is what the catalog shows: clients add to it. */
export const catalogServices = {
  identity: { type: 'identity', name: 'keystone', prefix: '/identity', path: '/identity' },
  image: { type: 'image', name: 'glance', prefix: '/image', path: '/image' },
  compute: { type: 'compute', name: 'nova', prefix: '/compute', path: '/compute/v2.1' },
} as const satisfies Record<string, CatalogService>;

/** Ours, beside OpenStack's: served, and in no token's catalog. */
export const operatorCatalog = {
  type: 'nightlatch',
  name: 'nightlatch',
  prefix: '/nightlatch',
  path: '/nightlatch/v1',
} as const satisfies CatalogService;

export type CatalogService = {
  readonly type: string;
  readonly name: string;
  readonly prefix: string;
  readonly path: string;
};

export const endpointInterfaces = ['public', 'internal', 'admin'] as const;

export type Endpoint = {
  readonly id: string;
  readonly interface: (typeof endpointInterfaces)[number];
  readonly region: string;
  readonly region_id: string;
  readonly url: string;
};
export type CatalogEntry = {
  readonly id: string;
  readonly type: string;
  readonly name: string;
  readonly endpoints: readonly Endpoint[];
};

/** The catalog as a token carries it. Ids are the same at every start. See Identity API v3, "Service catalog". */
export function buildCatalog(services: readonly CatalogService[], region: string, publicUrl: string): CatalogEntry[] {
  return services.map((service) => ({
    id: stableId(service.type),
    type: service.type,
    name: service.name,
    endpoints: endpointInterfaces.map((name) => ({
      id: stableId(service.type, region, name),
      interface: name,
      region,
      region_id: region,
      url: `${publicUrl}${service.path}`,
    })),
  }));
}

function stableId(...parts: string[]): string {
  return createHash('sha256').update(parts.join('/')).digest('hex').slice(0, 32);
}
