import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox';
import { type ImageDependencies, imageOf } from '#api/image/dependencies.ts';
import { imagePolicy } from '#api/image/policy.ts';
import { imageParams } from '#api/image/schemas.ts';
import { enforce } from '#api/policy.ts';
import { NightlatchError } from '#core/errors.ts';
import { exchangeStatus } from '#db/images.ts';

/** Both ways an image can be taken out of use and put back, by their names in paths. */
const ways = {
  deactivate: { from: 'active', to: 'deactivated' },
  reactivate: { from: 'deactivated', to: 'active' },
} as const;

/**
 * Taking an image out of use: nothing new is made from it and its bytes are not given out; what was made from it is not
 * touched. See Image API v2, "Actions".
 */
export function actionRoutes(deps: ImageDependencies): FastifyPluginAsyncTypebox {
  return async (app) => {
    for (const [action, { from, to }] of Object.entries(ways)) {
      app.post(`/images/:id/actions/${action}`, { schema: { params: imageParams } }, async (request, reply) => {
        const { image, context } = await imageOf(request, request.params.id, deps);
        enforce(imagePolicy, action as keyof typeof ways, context, { projectId: image.projectId });
        if (image.status !== to && !(await exchangeStatus(deps.db, image.id, from, to))) {
          throw new NightlatchError('refused', {
            reason: `Not allowed to ${action} image in status '${image.status}'`,
          });
        }
        return reply.status(204).send();
      });
    }
  };
}
