import type { FastifyRequest } from 'fastify';
import { contextOf, type RequestContext } from '#api/auth.ts';
import { notFound, shorten } from '#core/errors.ts';
import { type ImageId, isUuid } from '#core/ids.ts';
import type { Image } from '#core/image.ts';
import type { Database } from '#db/database.ts';
import type { Identity } from '#identity/identity.ts';
import type { FileImageStore } from '#images/builtin/file-image-store.ts';

/** What the image API's routes work with. */
export type ImageDependencies = {
  readonly db: Database;
  readonly identity: Identity;
  readonly images: FileImageStore;
  readonly publicUrl: string | null;
};

/** The image a request names, and for whom. @throws not-found also when it is another project's. */
export async function imageOf(
  request: FastifyRequest,
  id: string,
  deps: ImageDependencies,
): Promise<{ image: Image; context: RequestContext }> {
  const context = contextOf(request);
  const image = isUuid(id) ? await deps.images.find(id as ImageId, context) : null;
  if (!image) throw notFound('Image', shorten(id, 64));
  return { image, context };
}
