import { NightlatchError } from '#core/errors.ts';
import type { Image } from '#core/image.ts';
import { findServer, updateServer } from '#db/servers.ts';
import { finish, finishWithFault, type OperationContext, type ServerInput } from '#operations/context.ts';
import type { Operation } from '#operations/engine.ts';
import { imageSteps } from '#operations/image-steps.ts';
import { OFFLOADED, offloadDisks } from '#operations/offload-server.ts';
import { destroySavedMemory, stopGuest } from '#operations/steps.ts';

const TASKS = {
  copy: 'shelving',
  pending: 'shelving_image_pending_upload',
  upload: 'shelving_image_uploading',
} as const;

/**
 * Shelve server: its root disk becomes an image, and it leaves its host, at once or later (`shelved_offload_time`). The rows
 * of image and snapshot are durable before it begins.
 *
 * | step             | effect                                        | compensation                    | a repeat |
 * |------------------|-----------------------------------------------|---------------------------------|----------|
 * | stop             | guest ended, all locked, leases closed        | none: a stopped guest cannot be brought back | fine |
 * | see `imageSteps` | the image is active                           | image, snapshot and secret gone | fine     |
 * | note             | SHELVED; the row names the image              | none: from here on it is shelved | fine    |
 * | destroy-memory   | saved memory and its secret destroyed         | none                            | fine     |
 * | offload          | if at once: disks destroyed, no host          | none                            | fine     |
 * | finish           | SHELVED or SHELVED_OFFLOADED                  | –                               | same     |
 */
export function shelveServer(context: OperationContext): Operation<ServerInput> {
  const isShelvedTo = async ({ serverId }: ServerInput, image: Image) =>
    (await findServer(context.db, serverId))?.shelved_image_id === image.id;
  return {
    name: 'shelve-server',
    steps: [
      stopGuest(context, context.shutdownTimeoutMs),
      ...imageSteps(context, TASKS, isShelvedTo),
      { name: 'note', run: (input) => note(context, input) },
      destroySavedMemory(context),
      { name: 'offload', run: (input) => offloadIfDue(context, input) },
      { name: 'finish', run: (input) => finishShelved(context, input) },
    ],
    failed: (input, failure) => finishWithFault(context, input, failure),
  };
}

/**
 * Shelve server that boots from a volume: there is nothing to make an image of, and it leaves its host at once, as in Nova.
 * Its volumes stay its own.
 *
 * | step           | effect                                        | compensation                    | a repeat |
 * |----------------|-----------------------------------------------|---------------------------------|----------|
 * | stop           | guest ended, all locked, leases closed        | none: a stopped guest cannot be brought back | fine |
 * | note           | SHELVED                                       | none: from here on it is shelved | fine    |
 * | destroy-memory | saved memory and its secret destroyed         | none                            | fine     |
 * | offload        | disks of its own destroyed, no host           | none                            | fine     |
 * | finish         | SHELVED_OFFLOADED                             | –                               | same     |
 */
export function shelveVolumeServer(context: OperationContext): Operation<ServerInput> {
  return {
    name: 'shelve-volume-server',
    steps: [
      stopGuest(context, context.shutdownTimeoutMs),
      { name: 'note', run: (input) => note(context, input) },
      destroySavedMemory(context),
      { name: 'offload', run: (input) => offloadDisks(context, input) },
      { name: 'finish', run: (input) => finishShelved(context, input) },
    ],
    failed: (input, failure) => finishWithFault(context, input, failure),
  };
}

/** @throws conflict when a delete has taken the server over. */
async function note(context: OperationContext, input: ServerInput): Promise<void> {
  await context.db.transaction().execute(async (tx) => {
    const server = await tx
      .selectFrom('servers')
      .selectAll()
      .where('id', '=', input.serverId)
      .forUpdate()
      .executeTakeFirst();
    if (server?.operation?.id !== input.operationId) {
      throw new NightlatchError('conflict', { reason: `Shelving server ${input.serverId} was ended by its deletion.` });
    }
    await updateServer(tx, input.serverId, {
      vm_state: 'shelved',
      power_state: 'shutdown',
      task_state: 'shelving_offloading',
      shelved_image_id: input.imageId ?? null,
      shelved_at: new Date(),
    });
  });
}

async function offloadIfDue(context: OperationContext, input: ServerInput): Promise<void> {
  if (context.shelvedOffloadSeconds === 0) await offloadDisks(context, input);
}

async function finishShelved(context: OperationContext, input: ServerInput): Promise<void> {
  const server = await findServer(context.db, input.serverId);
  const isOffloaded = server?.host === null;
  await finish(context, input, isOffloaded ? OFFLOADED : { vm_state: 'shelved', power_state: 'shutdown' });
}
