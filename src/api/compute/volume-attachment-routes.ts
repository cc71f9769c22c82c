import type { FastifyRequest } from 'fastify';
import { Type } from 'typebox';
import type { ApiApp } from '#api/app.ts';
import type { RequestContext } from '#api/auth.ts';
import { has, requireFeature } from '#api/compute/microversions.ts';
import { allowed, type ComputeAction } from '#api/compute/policy.ts';
import { checkUnlocked, getServer } from '#api/compute/server-lookup.ts';
import type { ComputeServices } from '#api/compute/services.ts';
import { BooleanWord, exactly, toBoolean } from '#api/fields.ts';
import { badRequest, NightlatchError, shorten } from '#core/errors.ts';
import { isUuid, type VolumeId } from '#core/ids.ts';
import type { Server } from '#db/servers.ts';
import { type Attachment, attachmentsToServer, updateAttachment } from '#db/volume-attachments.ts';
import { findVolume, type Volume } from '#db/volumes.ts';

type Ids = { id: string; volumeId: string };

const AttachBody = exactly({
  volumeAttachment: exactly({
    volumeId: Type.String({ pattern: '^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$' }),
    device: Type.Optional(
      Type.Union([Type.Null(), Type.String({ pattern: '^(/dev/)?[a-z]{2,4}[a-z0-9]*$', maxLength: 64 })]),
    ),
    tag: Type.Optional(Type.String({ minLength: 1, maxLength: 60, pattern: '^[^,/]*$' })),
    delete_on_termination: Type.Optional(BooleanWord),
  }),
});

const UpdateBody = Type.Object({
  volumeAttachment: Type.Object({
    volumeId: Type.String({ maxLength: 64 }),
    delete_on_termination: Type.Optional(BooleanWord),
  }),
});

/** Volumes attached to a server. See Compute API "Servers with volume attachments". */
export function addVolumeAttachmentRoutes(app: ApiApp, services: ComputeServices): void {
  const { db } = services;
  const find = async (request: FastifyRequest, action: ComputeAction) => {
    const context = allowed(request, action);
    return { context, server: await getServer(db, (request.params as Ids).id, context) };
  };
  app.get('/servers/:id/os-volume_attachments', async (request) => {
    const { server } = await find(request, 'os_compute_api:os-volumes-attachments:index');
    const attached = await attachmentsToServer(db, server.id);
    return { volumeAttachments: attached.map((attachment) => present(request, attachment)) };
  });
  app.get('/servers/:id/os-volume_attachments/:volumeId', async (request) => {
    const { server } = await find(request, 'os_compute_api:os-volumes-attachments:show');
    return { volumeAttachment: present(request, await findAttached(services, server, request)) };
  });
  app.post('/servers/:id/os-volume_attachments', { schema: { body: AttachBody } }, async (request) => {
    const { context, server } = await find(request, 'os_compute_api:os-volumes-attachments:create');
    const asked = request.body.volumeAttachment;
    refuseBefore(request, asked);
    checkUnlocked(server, context);
    const volume = await getVolume(services, asked.volumeId, context);
    const wanted = {
      serverId: server.id,
      device: asked.device ?? null,
      deleteOnTermination: toBoolean(asked.delete_on_termination ?? false),
    };
    const attachment = await services.volumes.attach(volume.id, wanted, context);
    return { volumeAttachment: present(request, attachment) };
  });
  app.put('/servers/:id/os-volume_attachments/:volumeId', { schema: { body: UpdateBody } }, async (request, reply) => {
    const { context, server } = await find(request, 'os_compute_api:os-volumes-attachments:update');
    const asked = request.body.volumeAttachment;
    const attachment = await findAttached(services, server, request);
    if (asked.volumeId !== attachment.volume_id) {
      if (!isUuid(asked.volumeId) || !(await findVisible(services, asked.volumeId, context))) {
        throw badRequest(`Volume ${shorten(asked.volumeId)} could not be found.`);
      }
      const reason = 'Exchanging the volume of a server is not served. Retype or migrate the volume instead.';
      throw new NightlatchError('conflict', { reason });
    }
    if (asked.delete_on_termination === undefined) throw badRequest('The old volume cannot be used as the new volume.');
    requireFeature(request, 'attachment-update');
    await updateAttachment(db, attachment.id, { delete_on_termination: toBoolean(asked.delete_on_termination) });
    return await reply.status(202).send();
  });
  app.delete('/servers/:id/os-volume_attachments/:volumeId', async (request, reply) => {
    const { context, server } = await find(request, 'os_compute_api:os-volumes-attachments:delete');
    checkUnlocked(server, context);
    const attachment = await findAttached(services, server, request);
    if (attachment.boot_index === 0) throw badRequest('Cannot detach a root device volume');
    await services.volumes.detach(attachment.volume_id, server.id, context);
    return await reply.status(202).send();
  });
}

function present(request: FastifyRequest, attachment: Attachment): object {
  const { id, volume_id: volumeId, server_id: serverId, device, delete_on_termination } = attachment;
  const ids = has(request, 'attachment-ids') ? { attachment_id: id, bdm_uuid: id } : { id: volumeId };
  return {
    ...ids,
    volumeId,
    serverId,
    device,
    ...(has(request, 'attachment-tag-shown') ? { tag: null } : {}),
    ...(has(request, 'delete-on-termination') ? { delete_on_termination } : {}),
  };
}

function refuseBefore(request: FastifyRequest, asked: object): void {
  for (const [field, feature] of [
    ['tag', 'attachment-tag'],
    ['delete_on_termination', 'delete-on-termination'],
  ] as const) {
    if (field in asked && !has(request, feature)) {
      throw badRequest(`Additional properties are not allowed ('${field}' was unexpected).`);
    }
  }
}

async function findAttached({ db }: ComputeServices, server: Server, request: FastifyRequest): Promise<Attachment> {
  const { volumeId } = request.params as Ids;
  const found = (await attachmentsToServer(db, server.id)).find(({ volume_id }) => volume_id === volumeId);
  if (found) return found;
  const reason = `Instance ${server.id} is not attached to volume ${shorten(volumeId)}`;
  throw new NightlatchError('not-there', { reason });
}

async function getVolume(services: ComputeServices, id: string, context: RequestContext): Promise<Volume> {
  const volume = await findVisible(services, id, context);
  if (volume) return volume;
  throw new NightlatchError('not-there', { reason: `Volume ${shorten(id)} could not be found.` });
}

/** The volume, if it is there for the caller; null: it is not. */
async function findVisible({ db }: ComputeServices, id: string, { projectId, isAdmin }: RequestContext) {
  const volume = await findVolume(db, id as VolumeId);
  return volume && volume.deleted_at === null && (isAdmin || volume.project_id === projectId) ? volume : null;
}
