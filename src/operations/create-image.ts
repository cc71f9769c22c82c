import { finish, finishWithFault, type OperationContext, type ServerInput } from '#operations/context.ts';
import type { Operation } from '#operations/engine.ts';
import { imageSteps } from '#operations/image-steps.ts';

const TASKS = { copy: 'image_snapshot', pending: 'image_pending_upload', upload: 'image_uploading' } as const;

/**
 * Create image: the server's root disk becomes an image. The rows of both are durable before it begins.
 *
 * | step              | effect                         | compensation                   | a repeat |
 * |-------------------|--------------------------------|--------------------------------|----------|
 * | see `imageSteps`  | the image is active            | all gone but an active image   | fine     |
 * | finish            | the server is as it was before | –                              | same     |
 */
export function createImage(context: OperationContext): Operation<ServerInput> {
  return {
    name: 'create-image',
    steps: [
      ...imageSteps(context, TASKS, async (_, { status }) => status === 'active'),
      { name: 'finish', run: (input) => finish(context, input, {}) },
    ],
    failed: (input, failure) => finishWithFault(context, input, failure),
  };
}
