import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox';
import type { Static } from 'typebox';
import { contextOf, type RequestContext } from '#api/auth.ts';
import { type ImageDependencies, imageOf } from '#api/image/dependencies.ts';
import { pageOf } from '#api/image/list.ts';
import { changeFrom } from '#api/image/patch.ts';
import { imagePolicy } from '#api/image/policy.ts';
import { presentImage } from '#api/image/presenters.ts';
import { checkCustomProperties, customPropertiesOf } from '#api/image/properties.ts';
import { createImageRequest, imageParams, listImagesQuery, patchRequest, readOnlyFields } from '#api/image/schemas.ts';
import { jsonParser } from '#api/incoming-text.ts';
import { enforce } from '#api/policy.ts';
import { NightlatchError, notFound } from '#core/errors.ts';
import { type ImageId, newId, type ProjectId } from '#core/ids.ts';
import type { Image } from '#core/image.ts';
import { insertImage, listImages, lockImage, type NewImage, updateImage } from '#db/images.ts';

const PATCH_TYPE = 'application/openstack-images-v2.1-json-patch';

/** Images, but for their bytes. See Image API v2, "Images". */
export function imageRoutes(deps: ImageDependencies): FastifyPluginAsyncTypebox {
  const { db } = deps;
  return async (app) => {
    app.post('/images', { schema: { body: createImageRequest } }, async (request, reply) => {
      const context = contextOf(request);
      enforce(imagePolicy, 'add_image', context);
      const wanted = newImage(request.body, context);
      if (wanted.visibility === 'public') enforce(imagePolicy, 'publicize_image', context);
      const image = await insertImage(db, wanted);
      if (!image) throw new NightlatchError('conflict', { reason: `Image ID ${wanted.id} already exists!` });
      reply.status(201).header('location', `/v2/images/${image.id}`);
      return presentImage(image);
    });
    app.get('/images', { schema: { querystring: listImagesQuery } }, async (request) => {
      const context = contextOf(request);
      enforce(imagePolicy, 'get_images', context);
      const visible = await listImages(db, context.isAdmin ? null : context.projectId);
      return presentPage(visible, request.query, context);
    });
    app.get('/images/:id', { schema: { params: imageParams } }, async (request) => {
      const { image, context } = await imageOf(request, request.params.id, deps);
      enforce(imagePolicy, 'get_image', context);
      return presentImage(image);
    });
    app.delete('/images/:id', { schema: { params: imageParams } }, async (request, reply) => {
      const { image, context } = await imageOf(request, request.params.id, deps);
      enforce(imagePolicy, 'delete_image', context, { projectId: image.projectId });
      await deps.images.delete(image.id, request.id);
      return reply.status(204).send();
    });
    await app.register(patching(deps));
  };
}

/** A scope of its own, in which a body is a patch and nothing else. */
function patching(deps: ImageDependencies): FastifyPluginAsyncTypebox {
  return async (app) => {
    const parse = jsonParser(app);
    app.removeAllContentTypeParsers();
    app.addContentTypeParser(PATCH_TYPE, { parseAs: 'buffer' }, parse);
    app.patch('/images/:id', { schema: { params: imageParams, body: patchRequest } }, async (request) => {
      const { image, context } = await imageOf(request, request.params.id, deps);
      enforce(imagePolicy, 'modify_image', context, { projectId: image.projectId });
      const changed = await deps.db.transaction().execute(async (transaction) => {
        const current = await lockImage(transaction, image.id);
        if (!current) throw notFound('Image', image.id);
        const change = changeFrom(request.body, current);
        if (change.visibility === 'public' && current.visibility !== 'public') {
          enforce(imagePolicy, 'publicize_image', context);
        }
        return (await updateImage(transaction, image.id, change)) ?? current;
      });
      return presentImage(changed);
    });
  };
}

function newImage(body: Static<typeof createImageRequest>, context: RequestContext): NewImage {
  const fixed = readOnlyFields.find((field) => Object.hasOwn(body, field));
  if (fixed) throw new NightlatchError('forbidden', { action: `setting the attribute ${fixed}` });
  if (body.owner && body.owner !== context.projectId && !context.isAdmin) {
    throw new NightlatchError('forbidden', { action: 'creating an image for another project' });
  }
  const properties = customPropertiesOf(body);
  checkCustomProperties(properties);
  return {
    id: (body.id as ImageId | undefined) ?? newId<ImageId>(),
    projectId: (body.owner as ProjectId | null | undefined) ?? context.projectId,
    name: body.name ?? null,
    visibility: body.visibility ?? 'shared',
    diskFormat: body.disk_format ?? null,
    containerFormat: body.container_format ?? null,
    minDiskGib: body.min_disk ?? 0,
    minRamMib: body.min_ram ?? 0,
    properties,
    tags: [...new Set(body.tags ?? [])],
    protected: body.protected ?? false,
    hidden: body.os_hidden ?? false,
  };
}

function presentPage(images: readonly Image[], query: Record<string, string>, context: RequestContext): object {
  const page = pageOf(images, query, context.projectId);
  const { marker: _, ...rest } = query;
  const link = (parameters: Record<string, string>): string => {
    const text = new URLSearchParams(parameters).toString();
    return text === '' ? '/v2/images' : `/v2/images?${text}`;
  };
  return {
    images: page.images.map(presentImage),
    first: link(rest),
    ...(page.next === null ? {} : { next: link({ ...rest, marker: page.next }) }),
    schema: '/v2/schemas/images',
  };
}
