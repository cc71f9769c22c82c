import type { TypeBoxTypeProvider } from '@fastify/type-provider-typebox';
import type { FastifyInstance, FastifyRequest } from 'fastify';
import { contextOf, requireToken } from '#api/auth.ts';
import { addAttachmentRoutes } from '#api/block-storage/attachment-routes.ts';
import { addBackendRoutes } from '#api/block-storage/backend-routes.ts';
import { addBackupRoutes } from '#api/block-storage/backup-routes.ts';
import { addExtensionRoutes } from '#api/block-storage/extension-routes.ts';
import { presentFailure } from '#api/block-storage/failure.ts';
import { addLimitRoutes } from '#api/block-storage/limit-routes.ts';
import { addMessageRoutes } from '#api/block-storage/message-routes.ts';
import { addBlockStorageMetadata } from '#api/block-storage/metadata.ts';
import { MIN_MICROVERSION, servedMicroversions } from '#api/block-storage/microversions.ts';
import { addQuotaRoutes } from '#api/block-storage/quota-routes.ts';
import { addResourceFilterRoutes } from '#api/block-storage/resource-filter-routes.ts';
import { addServiceRoutes } from '#api/block-storage/service-routes.ts';
import type { BlockStorageServices } from '#api/block-storage/services.ts';
import { addSnapshotRoutes } from '#api/block-storage/snapshot-routes.ts';
import { addTransferRoutes } from '#api/block-storage/transfer-routes.ts';
import { addTypeAccessRoutes } from '#api/block-storage/type-access-routes.ts';
import { addTypeEncryptionRoutes } from '#api/block-storage/type-encryption-routes.ts';
import { addTypeExtraSpecRoutes } from '#api/block-storage/type-extra-spec-routes.ts';
import { addTypeRoutes } from '#api/block-storage/type-routes.ts';
import { presentVersions } from '#api/block-storage/versions.ts';
import { addVolumeRoutes } from '#api/block-storage/volume-routes.ts';
import { catalogServices } from '#api/catalog.ts';
import { headerText, MICROVERSION_HEADER, microversionFrom } from '#api/microversions.ts';
import type { ApiService } from '#api/server.ts';
import { badRequest } from '#core/errors.ts';

/** The block storage service: Cinder's v3 API as far as it is served here. */
export function blockStorageService(services: BlockStorageServices): ApiService {
  const { identity, publicUrl } = services;
  return {
    catalog: catalogServices['block-storage'],
    present: presentFailure,
    routes: async (app) => {
      requireToken(app, identity);
      negotiateMicroversion(app);
      // 300, as Cinder: there is a choice, though of one.
      app.get('/', { config: { public: true } }, (request, reply) => {
        reply.status(300);
        return presentVersions(request, publicUrl);
      });
      app.get('/v3', { config: { public: true } }, (request) => presentVersions(request, publicUrl));
      await app.register(v3(services), { prefix: '/v3/:project_id' });
    },
  };
}

function v3(services: BlockStorageServices) {
  return async (scope: FastifyInstance): Promise<void> => {
    const app = scope.withTypeProvider<TypeBoxTypeProvider>();
    app.addHook('onRequest', async (request) => checkProject(request));
    addTypeRoutes(app, services);
    addTypeExtraSpecRoutes(app, services);
    addTypeEncryptionRoutes(app, services);
    addTypeAccessRoutes(app, services);
    addQuotaRoutes(app, services);
    addLimitRoutes(app, services);
    addMessageRoutes(app, services);
    addBackendRoutes(app, services);
    addServiceRoutes(app, services);
    addExtensionRoutes(app);
    addResourceFilterRoutes(app);
    addVolumeRoutes(app, services);
    addBlockStorageMetadata(app, services);
    addSnapshotRoutes(app, services);
    addTransferRoutes(app, services);
    addBackupRoutes(app, services);
    addAttachmentRoutes(app, services);
  };
}

/** The project in the path is that of the token; an admin may name any. @throws bad-request (400), as Cinder. */
function checkProject(request: FastifyRequest): void {
  if (request.is404) return;
  const { projectId, isAdmin } = contextOf(request);
  const named = (request.params as { project_id: string }).project_id;
  if (named !== projectId && !isAdmin) throw badRequest('Malformed request url');
}

/** Every answer says which microversion it is of; one to a version that is not served says none. */
function negotiateMicroversion(app: FastifyInstance): void {
  app.decorateRequest('microversion', MIN_MICROVERSION);
  app.addHook('onRequest', async (request, reply) => {
    request.microversion = microversionFrom(headerText(request, MICROVERSION_HEADER), servedMicroversions);
    reply.header(MICROVERSION_HEADER, `volume 3.${request.microversion}`);
    reply.header('vary', MICROVERSION_HEADER);
  });
}
