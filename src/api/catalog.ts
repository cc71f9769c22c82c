import { createHash } from 'node:crypto';

/** The services we can offer, as the catalog names them. `path` is what the catalog shows: clients add to it. */
export const catalogServices = {
  identity: { type: 'identity', name: 'keystone', prefix: '/identity', path: '/identity' },
  image: { type: 'image', name: 'glance', prefix: '/image', path: '/image' },
  compute: { type: 'compute', name: 'nova', prefix: '/compute', path: '/compute/v2.1' },
  'block-storage': {
    type: 'block-storage',
    aliases: ['volumev3'],
    name: 'cinder',
    prefix: '/volume',
    path: '/volume/v3',
    isPerProject: true,
  },
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
  /** More types it is in the catalog as, for clients that know only those. */
  readonly aliases?: readonly string[];
  readonly name: string;
  readonly prefix: string;
  readonly path: string;
  /** Its addresses end with the id of the project. */
  readonly isPerProject?: boolean;
};

/** The place of the project's id in an address that is shown to nobody in particular. */
export const PROJECT_PLACE = '$(project_id)s';

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

/**
 * The catalog as a token for this project carries it. Ids are the same at every start. See Identity API v3, "Service
 * catalog".
 */
export function buildCatalog(
  services: readonly CatalogService[],
  { region, publicUrl, project }: { readonly region: string; readonly publicUrl: string; readonly project: string },
): CatalogEntry[] {
  return services.flatMap((service) => {
    const url = `${publicUrl}${service.path}${service.isPerProject ? `/${project}` : ''}`;
    return [service.type, ...(service.aliases ?? [])].map((type) => ({
      id: stableId(type),
      type,
      name: service.name,
      endpoints: endpointInterfaces.map((name) => ({
        id: stableId(type, region, name),
        interface: name,
        region,
        region_id: region,
        url,
      })),
    }));
  });
}

function stableId(...parts: string[]): string {
  return createHash('sha256').update(parts.join('/')).digest('hex').slice(0, 32);
}
