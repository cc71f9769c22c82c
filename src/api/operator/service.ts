import type { FastifyReply, FastifyRequest } from 'fastify';
import { requireToken } from '#api/auth.ts';
import { operatorCatalog } from '#api/catalog.ts';
import type { Failure } from '#api/failure.ts';
import { addHostRoutes } from '#api/operator/host-routes.ts';
import type { ApiService } from '#api/server.ts';
import type { Database } from '#db/database.ts';
import type { Identity } from '#identity/identity.ts';
import type { HostOperations } from '#operations/host-operations.ts';

export type OperatorDependencies = {
  readonly db: Database;
  readonly identity: Identity;
  readonly hosts: HostOperations;
};

/** What operators need and OpenStack has no call for. For admins; not in the catalog that tokens carry. */
export function operatorService(dependencies: OperatorDependencies): ApiService {
  return {
    catalog: operatorCatalog,
    present: ({ status, title, message }: Failure, _request: FastifyRequest, _reply: FastifyReply) => ({
      error: { code: status, title, message },
    }),
    routes: async (app) => {
      requireToken(app, dependencies.identity);
      await app.register(async (scope) => addHostRoutes(scope, dependencies), { prefix: '/v1' });
    },
  };
}
