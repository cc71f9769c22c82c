import type { Readable } from 'node:stream';
import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox';
import { type ImageDependencies, imageOf } from '#api/image/dependencies.ts';
import { imagePolicy } from '#api/image/policy.ts';
import { imageParams } from '#api/image/schemas.ts';
import { enforce } from '#api/policy.ts';
import { badRequest, NightlatchError } from '#core/errors.ts';

/** The bytes of images. See Image API v2, "Image data". */
export function dataRoutes(deps: ImageDependencies): FastifyPluginAsyncTypebox {
  return async (app) => {
    app.removeAllContentTypeParsers();
    // The body stays a stream; its size is the image store's to limit.
    app.addContentTypeParser('application/octet-stream', async (_: unknown, payload: Readable) => payload);

    app.put('/images/:id/file', { schema: { params: imageParams } }, async (request, reply) => {
      const { image, context } = await imageOf(request, request.params.id, deps);
      enforce(imagePolicy, 'upload_image', context, { projectId: image.projectId });
      if (request.body === undefined) {
        throw new NightlatchError('unsupported-media-type', {
          reason: 'Image data must be sent as Content-Type application/octet-stream.',
        });
      }
      if (image.diskFormat === null || image.containerFormat === null) {
        throw badRequest('Set disk_format and container_format before uploading data.');
      }
      await deps.images.upload(image.id, request.body as Readable);
      return reply.status(204).send();
    });

    const reading = { schema: { params: imageParams }, exposeHeadRoute: false };
    app.get('/images/:id/file', reading, async (request, reply) => {
      const { image, context } = await imageOf(request, request.params.id, deps);
      enforce(imagePolicy, 'download_image', context);
      if (image.status === 'deactivated' && !context.isAdmin) {
        const reason = 'The requested image has been deactivated. Image data download is forbidden.';
        throw new NightlatchError('refused', { reason });
      }
      if (image.status !== 'active' && image.status !== 'deactivated') return reply.status(204).send();
      const bytes = await (await deps.images.openImage(image.id)).open();
      reply.type('application/octet-stream').header('content-length', image.sizeBytes ?? 0);
      if (image.md5 !== null) reply.header('content-md5', image.md5);
      return reply.send(bytes);
    });
  };
}
