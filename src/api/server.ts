import { randomUUID } from 'node:crypto';
import type { TypeBoxTypeProvider } from '@fastify/type-provider-typebox';
import fastify, {
  type FastifyBaseLogger,
  type FastifyInstance,
  type FastifyPluginAsync,
  type FastifyReply,
  type FastifyRequest,
  LogController,
} from 'fastify';
import type { CatalogService } from '#api/catalog.ts';
import { answerUnreadable, dropRest } from '#api/connections.ts';
import { type Failure, failureOf } from '#api/failure.ts';
import { jsonParser, refuseUnstorableAddress } from '#api/incoming-text.ts';
import { answerUnknownPaths } from '#api/not-found.ts';
import { publicUrlOf } from '#api/public-url.ts';

/** Refuses a JSON body beyond this; larger than any field's own limit, so that an overlong field is told apart (400). */
export const BODY_LIMIT = 4 * 1024 * 1024;
const IDLE_CONNECTION_MS = 120_000;

/** One OpenStack service: a scope of its own with its own paths and its own shape of errors. */
export type ApiService = {
  readonly catalog: CatalogService;
  readonly routes: FastifyPluginAsync;
  /** Makes the body of a failure in the service's own shape; the status is already set. */
  readonly present: (failure: Failure, request: FastifyRequest, reply: FastifyReply) => unknown;
};

export type ApiOptions = {
  readonly services: readonly ApiService[];
  /** The address clients use, when it is not the one they connect to. */
  readonly publicUrl: string | null;
  readonly logger?: FastifyBaseLogger;
};

/**
 * The HTTP server of all services on one port; not yet listening. Every answer carries `x-openstack-request-id`, made
 * here and never taken from the client. Unknown fields are refused, not removed; types are not converted.
 */
export function buildApi(options: ApiOptions): FastifyInstance {
  const app = fastify({
    ...(options.logger ? { loggerInstance: options.logger } : { logger: false }),
    logController: new LogController({ disableRequestLogging: true }),
    bodyLimit: BODY_LIMIT,
    connectionTimeout: IDLE_CONNECTION_MS,
    requestIdHeader: false,
    genReqId: () => `req-${randomUUID()}`,
    routerOptions: { ignoreTrailingSlash: true, maxParamLength: 512 },
    clientErrorHandler: answerUnreadable,
    frameworkErrors: (error, request, reply) => answerUnroutable(error, request, reply, options),
    ajv: { customOptions: { removeAdditional: false, coerceTypes: false, useDefaults: true, allErrors: false } },
  }).withTypeProvider<TypeBoxTypeProvider>();
  app.removeContentTypeParser('application/json');
  app.addContentTypeParser('application/json', { parseAs: 'buffer' }, jsonParser(app));
  app.addHook('onRequest', async (request, reply) => {
    reply.header('x-openstack-request-id', request.id);
    refuseUnstorableAddress(request);
  });
  addScope(app, options, presentAtRoot);
  app.get('/', (request) => ({ services: options.services.map((service) => listing(service, request, options)) }));
  for (const service of options.services) {
    const scope: FastifyPluginAsync = async (inner) => {
      addScope(inner, options, service.present);
      await inner.register(service.routes);
    };
    void app.register(scope, { prefix: service.catalog.prefix });
  }
  return app;
}

function addScope(app: FastifyInstance, options: ApiOptions, present: ApiService['present']): void {
  answerUnknownPaths(app);
  app.setErrorHandler(async (error: Error, request, reply) => {
    const failure = failureOf(error, request);
    if (failure.status === 413) await dropRest(request);
    reply.status(failure.status);
    if (failure.status === 401) {
      reply.header('www-authenticate', `Keystone uri="${publicUrlOf(request, options.publicUrl)}/identity"`);
    }
    return present(failure, request, reply);
  });
}

/** Answers an address that no scope gets to see because it cannot be decoded, in the shape of the service it starts as. */
function answerUnroutable(error: Error, request: FastifyRequest, reply: FastifyReply, options: ApiOptions): void {
  const service = options.services.find(({ catalog }) => request.url.startsWith(`${catalog.prefix}/`));
  const failure = failureOf(error, request);
  reply.status(failure.status).header('x-openstack-request-id', request.id);
  void reply.send((service?.present ?? presentAtRoot)(failure, request, reply));
}

function listing({ catalog }: ApiService, request: FastifyRequest, options: ApiOptions): object {
  return { type: catalog.type, name: catalog.name, url: `${publicUrlOf(request, options.publicUrl)}${catalog.path}` };
}

function presentAtRoot(failure: Failure, _request: FastifyRequest, _reply: FastifyReply): object {
  return { error: { code: failure.status, title: failure.title, message: failure.message } };
}
