import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox';
import { type ImageDependencies, imageOf } from '#api/image/dependencies.ts';
import { imagePolicy } from '#api/image/policy.ts';
import { imageParams, tagParams } from '#api/image/schemas.ts';
import { enforce } from '#api/policy.ts';
import { NightlatchError, notFound } from '#core/errors.ts';
import { addTag, removeTag } from '#db/images.ts';

const MAX_TAGS = 128;

/** Tags of images, and their members, of which there are none. See Image API v2, "Image tags" and "Sharing". */
export function tagRoutes(deps: ImageDependencies): FastifyPluginAsyncTypebox {
  return async (app) => {
    app.put('/images/:id/tags/:tag', { schema: { params: tagParams } }, async (request, reply) => {
      const { image, context } = await imageOf(request, request.params.id, deps);
      enforce(imagePolicy, 'modify_image', context, { projectId: image.projectId });
      if (image.tags.length >= MAX_TAGS && !image.tags.includes(request.params.tag)) {
        throw new NightlatchError('too-large', { reason: `An image can have at most ${MAX_TAGS} tags.` });
      }
      await addTag(deps.db, image.id, request.params.tag);
      return reply.status(204).send();
    });
    app.delete('/images/:id/tags/:tag', { schema: { params: tagParams } }, async (request, reply) => {
      const { image, context } = await imageOf(request, request.params.id, deps);
      enforce(imagePolicy, 'modify_image', context, { projectId: image.projectId });
      const had = await removeTag(deps.db, image.id, request.params.tag);
      if (!had) throw notFound('The tag', request.params.tag);
      return reply.status(204).send();
    });
    app.get('/images/:id/members', { schema: { params: imageParams } }, async (request) => {
      const { image, context } = await imageOf(request, request.params.id, deps);
      enforce(imagePolicy, 'get_members', context, { projectId: image.projectId });
      return { members: [], schema: '/v2/schemas/members' };
    });
  };
}
