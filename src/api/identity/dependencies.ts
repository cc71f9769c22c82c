import type { FastifyRequest } from 'fastify';
import type { CatalogService } from '#api/catalog.ts';
import { publicUrlOf } from '#api/public-url.ts';
import type { Database } from '#db/database.ts';
import type { BuiltinIdentity } from '#identity/builtin/builtin-identity.ts';

/** What the identity API's routes work with. */
export type IdentityDependencies = {
  readonly db: Database;
  readonly identity: BuiltinIdentity;
  /** The services in the catalog. */
  readonly services: readonly CatalogService[];
  readonly region: string;
  readonly publicUrl: string | null;
};

/** Address of the v3 API as the client reaches it. */
export function v3Url(request: FastifyRequest, deps: IdentityDependencies): string {
  return `${publicUrlOf(request, deps.publicUrl)}/identity/v3`;
}
