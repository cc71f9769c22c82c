import type { FastifyRequest } from 'fastify';
import type { ApiApp } from '#api/app.ts';
import { linksTo } from '#api/compute/links.ts';
import { requireFeature } from '#api/compute/microversions.ts';
import { allowed, type ComputeAction } from '#api/compute/policy.ts';
import { checkUnlocked, getServer } from '#api/compute/server-lookup.ts';
import { changeTags } from '#api/compute/server-metadata.ts';
import { TagsBody } from '#api/compute/server-schemas.ts';
import type { ComputeServices } from '#api/compute/services.ts';
import { badRequest, NightlatchError, shorten } from '#core/errors.ts';
import type { Server } from '#db/servers.ts';

type Ids = { id: string; tag: string };
// As in the schema of tags.
const TAG = /^[^,/\p{Cc}\p{Cs}]{1,60}$/u;

/** Tags of a server, from 2.26 on. See Compute API "Server tags". */
export function addTagRoutes(app: ApiApp, { db, publicUrl }: ComputeServices): void {
  const find = async (request: FastifyRequest, action: ComputeAction): Promise<Server> => {
    requireFeature(request, 'server-tags');
    const context = allowed(request, action);
    const server = await getServer(db, (request.params as Ids).id, context);
    if (request.method !== 'GET') checkUnlocked(server, context);
    return server;
  };
  app.get('/servers/:id/tags', async (request) => {
    const { tags } = await find(request, 'os_compute_api:os-server-tags:index');
    return { tags };
  });
  app.put('/servers/:id/tags', { schema: { body: TagsBody } }, async (request) => {
    const { id } = await find(request, 'os_compute_api:os-server-tags:update_all');
    const { after } = await changeTags(db, id, () => request.body.tags);
    return { tags: after };
  });
  app.delete('/servers/:id/tags', async (request, reply) => {
    const { id } = await find(request, 'os_compute_api:os-server-tags:delete_all');
    await changeTags(db, id, () => []);
    return await reply.status(204).send();
  });
  app.get('/servers/:id/tags/:tag', async (request, reply) => {
    const { id, tags } = await find(request, 'os_compute_api:os-server-tags:show');
    const { tag } = request.params as Ids;
    if (!tags.includes(tag)) throw noTag(id, tag);
    return await reply.status(204).send();
  });
  app.put('/servers/:id/tags/:tag', async (request, reply) => {
    const { id } = await find(request, 'os_compute_api:os-server-tags:update');
    const { tag } = request.params as Ids;
    if (!TAG.test(tag)) {
      throw badRequest(
        `Tag '${shorten(tag, 64)}' is invalid. It must be a non empty string without characters '/' and ','.`,
      );
    }
    const { before } = await changeTags(db, id, (tags) => [...tags, tag]);
    if (before.includes(tag)) return await reply.status(204).send();
    reply.header(
      'location',
      linksTo(request, publicUrl, `servers/${id}/tags/${encodeURIComponent(tag)}`)[0]?.href ?? '',
    );
    return await reply.status(201).send();
  });
  app.delete('/servers/:id/tags/:tag', async (request, reply) => {
    const { id } = await find(request, 'os_compute_api:os-server-tags:delete');
    const { tag } = request.params as Ids;
    await changeTags(db, id, (tags) => {
      if (!tags.includes(tag)) throw noTag(id, tag);
      return tags.filter((other) => other !== tag);
    });
    return await reply.status(204).send();
  });
}

function noTag(id: string, tag: string): NightlatchError {
  return new NightlatchError('not-there', { reason: `Server ${id} has no tag '${shorten(tag, 64)}'` });
}
