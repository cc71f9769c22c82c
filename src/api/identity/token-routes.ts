import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox';
import type { FastifyRequest } from 'fastify';
import type { Static } from 'typebox';
import { callerOf } from '#api/auth.ts';
import { buildCatalog, type CatalogEntry } from '#api/catalog.ts';
import { type IdentityDependencies, v3Url } from '#api/identity/dependencies.ts';
import { type IdentityAction, identityPolicy } from '#api/identity/policy.ts';
import { presentDomain, presentList, presentProject, presentToken } from '#api/identity/presenters.ts';
import { authRequest } from '#api/identity/schemas.ts';
import { enforce } from '#api/policy.ts';
import { publicUrlOf } from '#api/public-url.ts';
import { badRequest, NightlatchError, notFound, shorten } from '#core/errors.ts';
import { listProjectsOfUser } from '#db/projects.ts';
import type { Proof, Scope, TokenDetails } from '#identity/builtin/builtin-identity.ts';

type AuthBody = Static<typeof authRequest>['auth'];

/** Asking for tokens, looking at them and giving them up. See Identity API v3, "Authentication and token management". */
export function tokenRoutes(deps: IdentityDependencies): FastifyPluginAsyncTypebox {
  /** Null: no project, no catalog. */
  const catalogFor = (request: FastifyRequest, project: string | undefined): CatalogEntry[] | null => {
    if (project === undefined) return null;
    const publicUrl = publicUrlOf(request, deps.publicUrl);
    return buildCatalog(deps.services, { region: deps.region, publicUrl, project });
  };

  /** The token named by `X-Subject-Token`, if the caller may see it. */
  async function subjectOf(request: FastifyRequest, action: IdentityAction): Promise<[string, TokenDetails]> {
    const token = request.headers['x-subject-token'];
    if (typeof token !== 'string' || token === '') throw badRequest('The header X-Subject-Token is missing.');
    const caller = callerOf(request);
    const details = await deps.identity.describe(token);
    if (!details) throw notFound('The token', 'in X-Subject-Token');
    enforce(identityPolicy, action, caller, { userId: details.userId });
    return [token, details];
  }

  return async (app) => {
    app.post('/auth/tokens', { config: { public: true }, schema: { body: authRequest } }, async (request, reply) => {
      const issued = await deps.identity.issue(proofsOf(request.body.auth), scopeOf(request.body.auth));
      if (!issued) throw new NightlatchError('unauthorized');
      reply.status(201).header('x-subject-token', issued.token).header('vary', 'X-Auth-Token');
      return presentToken(
        issued.details,
        wantsCatalog(request) ? catalogFor(request, issued.details.project?.id) : null,
      );
    });
    // HEAD answers as GET does, without the body.
    app.get('/auth/tokens', async (request, reply) => {
      const [token, details] = await subjectOf(request, 'identity:validate_token');
      reply.header('x-subject-token', token).header('vary', 'X-Auth-Token');
      return presentToken(details, wantsCatalog(request) ? catalogFor(request, details.project?.id) : null);
    });
    app.delete('/auth/tokens', async (request, reply) => {
      const [token] = await subjectOf(request, 'identity:revoke_token');
      await deps.identity.revoke(token);
      return reply.status(204).send();
    });
    app.get('/auth/catalog', async (request) => {
      const self = `${v3Url(request, deps)}/auth/catalog`;
      const catalog = catalogFor(request, callerOf(request).projectId ?? undefined) ?? [];
      return presentList('catalog', catalog, self);
    });
    app.get('/auth/projects', async (request) => {
      const base = v3Url(request, deps);
      const projects = await listProjectsOfUser(deps.db, callerOf(request).userId);
      const enabled = projects.filter((project) => project.enabled);
      return presentList(
        'projects',
        enabled.map((project) => presentProject(project, base)),
        `${base}/auth/projects`,
      );
    });
    app.get('/auth/domains', async (request) => {
      const base = v3Url(request, deps);
      return presentList('domains', callerOf(request).isAdmin ? [presentDomain(base)] : [], `${base}/auth/domains`);
    });
  };
}

function wantsCatalog(request: FastifyRequest): boolean {
  return !Object.hasOwn(request.query as object, 'nocatalog');
}

function proofsOf({ identity }: AuthBody): Proof[] {
  return identity.methods.map((method): Proof => {
    if (method === 'password' && identity.password) {
      const { password, ...user } = identity.password.user;
      return { method, user, password };
    }
    if (method === 'token' && identity.token) return { method, token: identity.token.id };
    if (method === 'password' || method === 'token') throw badRequest(`auth.identity.${method} is missing.`);
    throw badRequest(`The authentication method '${shorten(method, 64)}' is not offered. Use password or token.`);
  });
}

function scopeOf({ scope }: AuthBody): Scope {
  if (scope === undefined) return 'default';
  if (scope === 'unscoped' || scope.unscoped) return 'unscoped';
  if (scope.project) return { project: scope.project };
  throw badRequest('Tokens can be scoped to a project only, not to a domain or the system.');
}
