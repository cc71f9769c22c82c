import { requireToken } from '#api/auth.ts';
import { catalogServices } from '#api/catalog.ts';
import { actionRoutes } from '#api/image/action-routes.ts';
import { dataRoutes } from '#api/image/data-routes.ts';
import type { ImageDependencies } from '#api/image/dependencies.ts';
import { discoveryRoutes } from '#api/image/discovery-routes.ts';
import { imageRoutes } from '#api/image/image-routes.ts';
import { presentImageFailure } from '#api/image/presenters.ts';
import { tagRoutes } from '#api/image/tag-routes.ts';
import type { ApiService } from '#api/server.ts';

/** The image service: Glance's v2 API over the file-backed store. */
export function imageService(deps: ImageDependencies): ApiService {
  return {
    catalog: catalogServices.image,
    present: presentImageFailure,
    routes: async (app) => {
      requireToken(app, deps.identity);
      await app.register(discoveryRoutes(deps));
      for (const routes of [imageRoutes, actionRoutes, dataRoutes, tagRoutes])
        await app.register(routes(deps), { prefix: '/v2' });
    },
  };
}
