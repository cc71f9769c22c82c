import type { TypeBoxTypeProvider } from '@fastify/type-provider-typebox';
import type { FastifyInstance } from 'fastify';
import { requireToken } from '#api/auth.ts';
import { catalogServices } from '#api/catalog.ts';
import { Consoles } from '#api/compute/consoles.ts';
import { addEmptyRoutes } from '#api/compute/empty-routes.ts';
import { addExtraSpecRoutes } from '#api/compute/extra-spec-routes.ts';
import { addFlavorAccessRoutes } from '#api/compute/flavor-access-routes.ts';
import { addFlavorRoutes } from '#api/compute/flavor-routes.ts';
import { addHostRoutes } from '#api/compute/host-routes.ts';
import { addInstanceActionRoutes } from '#api/compute/instance-action-routes.ts';
import { addKeypairRoutes } from '#api/compute/keypair-routes.ts';
import { addLimitRoutes } from '#api/compute/limit-routes.ts';
import { LEGACY_MICROVERSION_HEADER, MIN_MICROVERSION, parseMicroversion } from '#api/compute/microversions.ts';
import { addSerialConsole } from '#api/compute/serial-console.ts';
import { addServerActionRoutes } from '#api/compute/server-action-routes.ts';
import { addServerMetadata } from '#api/compute/server-metadata.ts';
import { addServerRoutes } from '#api/compute/server-routes.ts';
import type { ComputeDependencies, ComputeServices } from '#api/compute/services.ts';
import { addTagRoutes } from '#api/compute/tag-routes.ts';
import { presentVersion, presentVersions } from '#api/compute/versions.ts';
import { addVolumeAttachmentRoutes } from '#api/compute/volume-attachment-routes.ts';
import { addVolumeProxyRoutes } from '#api/compute/volume-proxy-routes.ts';
import { presentFault } from '#api/fault.ts';
import { headerText, MICROVERSION_HEADER } from '#api/microversions.ts';
import type { ApiService } from '#api/server.ts';

/** The compute service: Nova's v2.1 API as far as it is served here. */
export function computeService(dependencies: ComputeDependencies): ApiService {
  const { identity, publicUrl } = dependencies;
  return {
    catalog: catalogServices.compute,
    present: presentFault,
    routes: async (app) => {
      requireToken(app, identity);
      negotiateMicroversion(app);
      app.get('/', { config: { public: true } }, (request) => presentVersions(request, publicUrl));
      app.get('/v2.1', { config: { public: true } }, (request) => presentVersion(request, publicUrl));
      const services = { ...dependencies, consoles: new Consoles(publicUrl) };
      await app.register(async (scope) => addSerialConsole(scope, services));
      await app.register(v21(services), { prefix: '/v2.1' });
    },
  };
}

function v21(services: ComputeServices) {
  return async (scope: FastifyInstance): Promise<void> => {
    const app = scope.withTypeProvider<TypeBoxTypeProvider>();
    addFlavorRoutes(app, services);
    addExtraSpecRoutes(app, services);
    addFlavorAccessRoutes(app, services);
    addServerRoutes(app, services);
    addServerActionRoutes(app, services);
    addServerMetadata(app, services);
    addTagRoutes(app, services);
    addLimitRoutes(app, services);
    addHostRoutes(app, services);
    addVolumeAttachmentRoutes(app, services);
    addVolumeProxyRoutes(app, services);
    addInstanceActionRoutes(app, services);
    addKeypairRoutes(app, services);
    addEmptyRoutes(app, services);
  };
}

/** Every answer says which microversion it is of; one to a version that is not served says none. */
function negotiateMicroversion(app: FastifyInstance): void {
  app.decorateRequest('microversion', MIN_MICROVERSION);
  app.addHook('onRequest', async (request, reply) => {
    reply.header('x-compute-request-id', request.id);
    request.microversion = parseMicroversion({
      current: headerText(request, MICROVERSION_HEADER),
      legacy: headerText(request, LEGACY_MICROVERSION_HEADER),
    });
    reply.header(MICROVERSION_HEADER, `compute 2.${request.microversion}`);
    reply.header(LEGACY_MICROVERSION_HEADER, `2.${request.microversion}`);
    reply.header('vary', `${MICROVERSION_HEADER}, ${LEGACY_MICROVERSION_HEADER}`);
  });
}
