import { blockStorageService } from '#api/block-storage/service.ts';
import { catalogServices, operatorCatalog } from '#api/catalog.ts';
import { computeService } from '#api/compute/service.ts';
import { identityService } from '#api/identity/service.ts';
import { imageService } from '#api/image/service.ts';
import { operatorService } from '#api/operator/service.ts';
import { buildApi } from '#api/server.ts';

/** A route as it was registered: its path with `:parameters`, whether it asks for a token, whether it takes JSON. */
export type Route = {
  readonly method: string;
  readonly path: string;
  readonly isPublic: boolean;
  readonly takesJson: boolean;
};

/**
 * Every route of the APIs, HEAD left out, asked of the routers themselves so that a new one cannot be forgotten. No
 * request is answered here: nothing is connected behind them.
 */
export async function allRoutes(): Promise<Route[]> {
  const routes: Route[] = [];
  const nothing = {} as never;
  const identity = { db: nothing, identity: nothing, services: [], region: '', publicUrl: null };
  const image = { db: nothing, identity: nothing, images: nothing, publicUrl: null };
  const operations = {
    volumes: nothing,
    snapshots: nothing,
    migrations: nothing,
    transfers: nothing,
    backups: nothing,
    contents: nothing,
    headers: nothing,
  };
  const common = { ...image, ...operations, defaultVolumeType: '', canForceUpload: false };
  const compute = { ...common, operations: nothing };
  const operator = operatorService({ ...image, hosts: nothing });
  const blockStorage = blockStorageService(common);
  const services = [
    identityService(identity),
    imageService(image),
    computeService(compute),
    blockStorage,
    operator,
  ].map((service) => ({
    ...service,
    routes: async (...[app, options]: Parameters<typeof service.routes>) => {
      app.addHook('onRoute', ({ method, url, config, schema }) => {
        for (const one of [method].flat()) {
          if (one === 'HEAD') continue;
          routes.push({
            method: one,
            path: url,
            isPublic: config?.public === true,
            takesJson: schema?.body !== undefined,
          });
        }
      });
      await service.routes(app, options);
    },
  }));
  const app = buildApi({ services, publicUrl: null });
  await app.ready();
  await app.close();
  return routes;
}

/** The services whose routes `allRoutes` knows; the service's own list at `/` has to be this one. */
export const knownServices: readonly string[] = [...Object.values(catalogServices), operatorCatalog].map(
  ({ type }) => type,
);
