import type { FastifyRequest } from 'fastify';
import type { ApiApp } from '#api/app.ts';
import { allowed, type ComputeAction } from '#api/compute/policy.ts';
import { checkUnlocked, getServer } from '#api/compute/server-lookup.ts';
import { changeMetadata } from '#api/compute/server-metadata.ts';
import { MetadataBody, MetadataItemBody } from '#api/compute/server-schemas.ts';
import type { ComputeServices } from '#api/compute/services.ts';
import { badRequest, NightlatchError, shorten } from '#core/errors.ts';
import type { Server } from '#db/servers.ts';

type Ids = { id: string; key: string };

/** Metadata of a server. What the guest was given on its config drive stays as it was. See Compute API "Server metadata". */
export function addMetadataRoutes(app: ApiApp, { db }: ComputeServices): void {
  const find = async (request: FastifyRequest, action: ComputeAction): Promise<Server> => {
    const context = allowed(request, action);
    const server = await getServer(db, (request.params as Ids).id, context);
    if (request.method !== 'GET') checkUnlocked(server, context);
    return server;
  };
  app.get('/servers/:id/metadata', async (request) => {
    const { metadata } = await find(request, 'os_compute_api:server-metadata:index');
    return { metadata };
  });
  app.post('/servers/:id/metadata', { schema: { body: MetadataBody } }, async (request) => {
    const { id } = await find(request, 'os_compute_api:server-metadata:create');
    return { metadata: await changeMetadata(db, id, (old) => ({ ...old, ...request.body.metadata })) };
  });
  app.put('/servers/:id/metadata', { schema: { body: MetadataBody } }, async (request) => {
    const { id } = await find(request, 'os_compute_api:server-metadata:update_all');
    return { metadata: await changeMetadata(db, id, () => request.body.metadata) };
  });
  app.get('/servers/:id/metadata/:key', async (request) => {
    const { metadata } = await find(request, 'os_compute_api:server-metadata:show');
    return { meta: itemOf(metadata, (request.params as Ids).key) };
  });
  app.put('/servers/:id/metadata/:key', { schema: { body: MetadataItemBody } }, async (request) => {
    const { id } = await find(request, 'os_compute_api:server-metadata:update');
    const { key } = request.params as Ids;
    const { meta } = request.body;
    if (!Object.hasOwn(meta, key)) throw badRequest('Request body and URI mismatch');
    if (Object.keys(meta).length > 1) throw badRequest('Request body contains too many items');
    await changeMetadata(db, id, (old) => ({ ...old, ...meta }));
    return { meta };
  });
  app.delete('/servers/:id/metadata/:key', async (request, reply) => {
    const { id } = await find(request, 'os_compute_api:server-metadata:delete');
    const { key } = request.params as Ids;
    await changeMetadata(db, id, (old) => {
      itemOf(old, key);
      return Object.fromEntries(Object.entries(old).filter(([name]) => name !== key));
    });
    return await reply.status(204).send();
  });
}

function itemOf(metadata: Readonly<Record<string, string>>, key: string): Record<string, string> {
  const value = Object.hasOwn(metadata, key) ? metadata[key] : undefined;
  if (value === undefined) {
    throw new NightlatchError('not-there', { reason: `Metadata item was not found: ${shorten(key)}` });
  }
  return { [key]: value };
}
