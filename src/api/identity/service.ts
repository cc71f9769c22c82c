import { requireToken } from '#api/auth.ts';
import { catalogServices } from '#api/catalog.ts';
import { catalogRoutes } from '#api/identity/catalog-routes.ts';
import type { IdentityDependencies } from '#api/identity/dependencies.ts';
import { presentIdentityFailure } from '#api/identity/presenters.ts';
import { projectRoutes } from '#api/identity/project-routes.ts';
import { roleRoutes } from '#api/identity/role-routes.ts';
import { tokenRoutes } from '#api/identity/token-routes.ts';
import { userRoutes } from '#api/identity/user-routes.ts';
import { versionRoutes } from '#api/identity/version-routes.ts';
import type { ApiService } from '#api/server.ts';

/** The identity service: Keystone's v3 API as far as clients need it. */
export function identityService(deps: IdentityDependencies): ApiService {
  return {
    catalog: catalogServices.identity,
    present: presentIdentityFailure,
    routes: async (app) => {
      requireToken(app, deps.identity);
      await app.register(versionRoutes(deps));
      for (const routes of [tokenRoutes, projectRoutes, userRoutes, roleRoutes, catalogRoutes]) {
        await app.register(routes(deps), { prefix: '/v3' });
      }
    },
  };
}
