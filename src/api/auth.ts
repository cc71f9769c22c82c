import type { FastifyInstance, FastifyRequest } from 'fastify';
import { NightlatchError } from '#core/errors.ts';
import type { ProjectId, UserId } from '#core/ids.ts';
import type { Identity, TokenFacts } from '#identity/identity.ts';

/** Who sends a request, whatever the token is scoped to. */
export type Caller = {
  readonly requestId: string;
  readonly userId: UserId;
  readonly userName: string;
  readonly projectId: ProjectId | null;
  readonly projectName: string | null;
  readonly roles: readonly string[];
  readonly isAdmin: boolean;
  /** Names the token without giving it away. */
  readonly auditId: string;
};

/** Who sends a request, and for which project. */
export type RequestContext = Caller & { readonly projectId: ProjectId; readonly projectName: string };

declare module 'fastify' {
  interface FastifyRequest {
    caller: Caller | null;
  }
  interface FastifyContextConfig {
    /** Answered without a token: version documents, and asking for a token. */
    public?: boolean;
  }
}

/**
 * Asks a valid token of every request in this scope, but for routes with `config: { public: true }`; unknown paths
 * need none. A token is taken from `X-Auth-Token` only.
 */
export function requireToken(app: FastifyInstance, identity: Identity): void {
  app.decorateRequest('caller', null);
  app.addHook('onRequest', async (request) => {
    if (request.is404 || request.routeOptions.config.public === true) return;
    const facts = await identity.validate(tokenOf(request));
    if (facts === null) throw new NightlatchError('unauthorized');
    request.caller = callerFrom(facts, request.id);
  });
}

/** Who sends this request. @throws unauthorized on a route that asks no token. */
export function callerOf(request: FastifyRequest): Caller {
  if (!request.caller) throw new NightlatchError('unauthorized');
  return request.caller;
}

/** Who sends this request, and for which project. @throws forbidden (403) when the token has no project. */
export function contextOf(request: FastifyRequest): RequestContext {
  const { projectId, projectName, ...caller } = callerOf(request);
  if (projectId === null || projectName === null) {
    throw new NightlatchError('forbidden', { action: 'this request without a project-scoped token' });
  }
  return { ...caller, projectId, projectName };
}

/** The token of this request. @throws unauthorized when there is none. */
export function tokenOf(request: FastifyRequest): string {
  const token = request.headers['x-auth-token'];
  if (typeof token !== 'string' || token === '') throw new NightlatchError('unauthorized');
  return token;
}

function callerFrom(facts: TokenFacts, requestId: string): Caller {
  return {
    requestId,
    userId: facts.userId,
    userName: facts.userName,
    projectId: facts.project?.id ?? null,
    projectName: facts.project?.name ?? null,
    roles: facts.roles,
    isAdmin: facts.roles.includes('admin'),
    auditId: facts.auditId,
  };
}
