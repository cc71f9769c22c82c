import type { FastifyRequest } from 'fastify';
import type { ApiApp } from '#api/app.ts';
import { createServers } from '#api/compute/create-server.ts';
import { refuseFieldsBefore } from '#api/compute/field-versions.ts';
import { addressFrom } from '#api/compute/fields.ts';
import { nextPage } from '#api/compute/links.ts';
import { has } from '#api/compute/microversions.ts';
import { allowed } from '#api/compute/policy.ts';
import { deleteOnce } from '#api/compute/server-changes.ts';
import { type ServerSelection, selectServersFor } from '#api/compute/server-list.ts';
import { checkUnlocked, getServer } from '#api/compute/server-lookup.ts';
import { presentCreated, presentServer, presentServerSummary } from '#api/compute/server-presenter.ts';
import { CreateServer, UpdateServer } from '#api/compute/server-schemas.ts';
import type { ComputeServices } from '#api/compute/services.ts';
import { type Server, type ServerChange, updateServer } from '#db/servers.ts';
import { attachmentsToServer, attachmentsToServers } from '#db/volume-attachments.ts';

type Id = { id: string };

/** Servers: list, show, create, update, delete. See Compute API "Servers". */
export function addServerRoutes(app: ApiApp, services: ComputeServices): void {
  const { db, publicUrl } = services;
  app.get('/servers', async (request) => {
    const selection = await selectServersFor(request, db);
    return page(request, publicUrl, 'servers', selection, presentServerSummary);
  });
  app.get('/servers/detail', async (request) => {
    const selection = await selectServersFor(request, db);
    const attached = await attachmentsToServers(
      db,
      selection.servers.map(({ id }) => id),
    );
    const present: Present = (...[asked, url, server]) =>
      presentServer(asked, url, server, attached.get(server.id) ?? []);
    return page(request, publicUrl, 'servers/detail', selection, present);
  });
  app.get('/servers/:id', async (request) => {
    const context = allowed(request, 'os_compute_api:servers:show');
    const server = await getServer(db, (request.params as Id).id, context);
    return { server: await presentShown(request, services, server) };
  });
  app.post('/servers', { schema: { body: CreateServer } }, async (request, reply) => {
    const context = allowed(request, 'os_compute_api:servers:create');
    refuseFieldsBefore(request, request.body.server);
    const created = await createServers(request, request.body, context, services);
    reply.status(202);
    if (created.reservationOnly) return { reservation_id: created.server.reservation_id };
    const body = presentCreated(request, publicUrl, created);
    reply.header('location', body.links[0]?.href ?? '');
    return { server: body };
  });
  app.put('/servers/:id', { schema: { body: UpdateServer } }, async (request) => {
    const context = allowed(request, 'os_compute_api:servers:update');
    refuseFieldsBefore(request, request.body.server);
    const server = await getServer(db, (request.params as Id).id, context);
    await updateServer(db, server.id, changeFrom(request.body.server));
    const changed = await getServer(db, server.id, context);
    return { server: await presentShown(request, services, changed) };
  });
  app.delete('/servers/:id', async (request, reply) => {
    const context = allowed(request, 'os_compute_api:servers:delete');
    const server = await getServer(db, (request.params as Id).id, context);
    checkUnlocked(server, context);
    await deleteOnce(services, server.id, context);
    return await reply.status(204).send();
  });
}

type Present = (request: FastifyRequest, publicUrl: string | null, server: Server) => object;

function page(
  request: FastifyRequest,
  publicUrl: string | null,
  path: string,
  { servers, limit }: ServerSelection,
  present: Present,
): object {
  const links = nextPage(request, publicUrl, { path, limit, ids: servers.map(({ id }) => id) });
  return {
    servers: servers.map((server) => present(request, publicUrl, server)),
    ...(links.length > 0 ? { servers_links: links } : {}),
  };
}

/** One server alone also shows its server groups, of which there are none. */
async function presentShown(
  request: FastifyRequest,
  { db, publicUrl }: ComputeServices,
  server: Server,
): Promise<object> {
  const groups = has(request, 'server-groups-shown') ? { server_groups: [] } : {};
  const attached = await attachmentsToServer(db, server.id);
  return { ...presentServer(request, publicUrl, server, attached), ...groups };
}

function changeFrom(asked: UpdateServer): ServerChange {
  return {
    ...(asked.name === undefined ? {} : { name: asked.name }),
    ...(asked.description === undefined ? {} : { description: asked.description }),
    // The guest was given its first name on its config drive and keeps that; Nova's metadata service would tell it.
    ...(asked.hostname === undefined ? {} : { hostname: asked.hostname.toLowerCase() }),
    ...(asked['OS-DCF:diskConfig'] === undefined ? {} : { disk_config: asked['OS-DCF:diskConfig'] }),
    ...(asked.accessIPv4 === undefined ? {} : { access_ipv4: addressFrom('accessIPv4', asked.accessIPv4) }),
    ...(asked.accessIPv6 === undefined ? {} : { access_ipv6: addressFrom('accessIPv6', asked.accessIPv6) }),
  };
}
