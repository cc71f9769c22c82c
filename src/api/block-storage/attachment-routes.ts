import type { FastifyRequest } from 'fastify';
import { type Static, Type } from 'typebox';
import type { ApiApp } from '#api/app.ts';
import { flagFrom } from '#api/block-storage/fields.ts';
import { nextPage } from '#api/block-storage/links.ts';
import { has, requireFeature } from '#api/block-storage/microversions.ts';
import { pageOf, readPaging, type SortValues } from '#api/block-storage/paging.ts';
import { allowed, type BlockStorageAction } from '#api/block-storage/policy.ts';
import type { BlockStorageServices } from '#api/block-storage/services.ts';
import { getVolume } from '#api/block-storage/volume-lookup.ts';
import { complete, connect, letGo, writeDown } from '#api/block-storage/written-attachments.ts';
import { exactly, isStorableText } from '#api/fields.ts';
import { Query } from '#api/query.ts';
import { presentTimeOrNull } from '#api/times.ts';
import { badRequest, notFound } from '#core/errors.ts';
import type { AttachmentId } from '#core/ids.ts';
import { type Attachment, attachmentOf, findAttachment, listAttachments } from '#db/volume-attachments.ts';
import type { Volume } from '#db/volumes.ts';

/** A description of the other end: names and short values, as os-brick makes it. */
const Connector = Type.Record(
  Type.String({ minLength: 1, maxLength: 255 }),
  Type.Union([
    Type.String({ maxLength: 4096 }),
    ...[Type.Number(), Type.Boolean(), Type.Null()],
    Type.Array(Type.String({ maxLength: 255 }), { maxItems: 256 }),
  ]),
  { maxProperties: 64 },
);
const CreateBody = exactly({
  attachment: exactly({
    volume_uuid: Type.String({ maxLength: 64 }),
    instance_uuid: Type.Optional(Type.Union([Type.String({ maxLength: 36 }), Type.Null()])),
    connector: Type.Optional(Type.Union([Connector, Type.Null()])),
    mode: Type.Optional(Type.Enum(['rw', 'ro'])),
  }),
});
const UpdateBody = exactly({ attachment: exactly({ connector: Connector }) });
const ActionBody = exactly({ 'os-complete': Type.Unknown() });

type Found = { readonly attachment: Attachment; readonly volume: Volume };

const order: SortValues<Attachment> = {
  id: ({ id }) => id,
  volume_id: ({ volume_id }) => volume_id,
  instance_id: instanceOf,
  attach_status: ({ status }) => status,
  created_at: ({ created_at }) => created_at.getTime(),
};

/**
 * Attachments: those of servers as they are, and those that a client wrote down. See Block Storage API v3 "Attachments".
 */
export function addAttachmentRoutes(app: ApiApp, { db, publicUrl }: BlockStorageServices): void {
  const since = { onRequest: async (request: FastifyRequest) => requireFeature(request, 'attachments') };
  const find = async (request: FastifyRequest, action: BlockStorageAction): Promise<Found> => {
    const context = allowed(request, action);
    const { id } = request.params as { id: string };
    const attachment = isStorableText(id) ? await findAttachment(db, id as AttachmentId) : null;
    if (!attachment) throw notFound('Volume attachment', id);
    // That of a volume which the caller does not see is as if it were not there.
    const volume = await getVolume(db, attachment.volume_id, context).catch(() => null);
    if (!volume) throw notFound('Volume attachment', id);
    return { attachment, volume };
  };

  for (const isDetailed of [false, true]) {
    const path = isDetailed ? 'attachments/detail' : 'attachments';
    app.get(`/${path}`, since, async (request) => {
      const { projectId, isAdmin } = allowed(request, 'volume:get_all');
      const query = new Query(request);
      const paging = readPaging(query);
      const isEverywhere = isAdmin && flagFrom('all_tenants', query.text('all_tenants'));
      const project = isEverywhere ? query.text('project_id') : projectId;
      const all = (await listAttachments(db, project as typeof projectId | null)).filter(matching(query));
      const shown = paging.limit === 0 ? [] : pageOf(all, paging, order);
      const links = nextPage(request, publicUrl, { path, limit: paging.limit, ids: shown.map(({ id }) => id) });
      return {
        attachments: shown.map((attachment) => (isDetailed ? presentDetails(attachment) : presentSummary(attachment))),
        ...(links.length > 0 ? { attachments_links: links } : {}),
      };
    });
  }
  app.get('/attachments/:id', since, async (request) => present(await find(request, 'volume:get')));
  app.post('/attachments', { ...since, schema: { body: CreateBody } }, async (request) => {
    const context = allowed(request, 'volume:attachment_create');
    const volume = await getVolume(db, request.body.attachment.volume_uuid, context);
    const wanted = wantedFrom(request, request.body.attachment, volume);
    return present({ attachment: await writeDown(db, volume.id, context, wanted), volume });
  });
  app.put('/attachments/:id', { ...since, schema: { body: UpdateBody } }, async (request) => {
    const { attachment } = await find(request, 'volume:attachment_update');
    await connect(db, attachment, request.body.attachment.connector);
    return present(await find(request, 'volume:get'));
  });
  app.delete('/attachments/:id', since, async (request) => {
    const { attachment } = await find(request, 'volume:attachment_delete');
    await letGo(db, attachment);
    const left = await attachmentOf(db, attachment.volume_id);
    return { attachments: left === null ? [] : [presentSummary(left)] };
  });
  app.post('/attachments/:id/action', { ...since, schema: { body: ActionBody } }, async (request, reply) => {
    requireFeature(request, 'attachment-complete');
    const { attachment } = await find(request, 'volume:attachment_complete');
    await complete(db, attachment);
    return await reply.status(204).send();
  });
}

/** Without a connector that says anything the volume is reserved only, as in Cinder. */
function wantedFrom(request: FastifyRequest, asked: Static<typeof CreateBody>['attachment'], volume: Volume) {
  if (asked.mode !== undefined && !has(request, 'attachment-mode')) {
    throw badRequest("Additional properties are not allowed ('mode' was unexpected)");
  }
  const connector = asked.connector ?? {};
  const isConnected = Object.keys(connector).length > 0;
  return {
    instance: asked.instance_uuid ?? null,
    connector,
    mode: volume.readonly === true ? 'ro' : (asked.mode ?? 'rw'),
    device: typeof connector.mountpoint === 'string' ? connector.mountpoint.slice(0, 255) : null,
    status: isConnected ? 'attaching' : 'reserved',
  } as const;
}

/** What a list of attachments can be restricted by. */
export const attachmentFilters: Readonly<Record<string, (attachment: Attachment) => string | null>> = {
  volume_id: ({ volume_id }) => volume_id,
  instance_id: instanceOf,
  status: ({ status }) => status,
  attach_status: ({ status }) => status,
  id: ({ id }) => id,
};

function matching(query: Query): (attachment: Attachment) => boolean {
  const wanted = Object.entries(attachmentFilters).map(([name, read]) => [query.text(name), read] as const);
  return (attachment) => wanted.every(([text, read]) => text === null || text === read(attachment));
}

function instanceOf({ server_id, connector }: Attachment): string | null {
  const written = connector?.instance;
  return server_id ?? (typeof written === 'string' ? written : null);
}

function presentSummary(attachment: Attachment): object {
  const { id, status, volume_id } = attachment;
  return { id, status, instance: instanceOf(attachment), volume_id };
}

function presentDetails(attachment: Attachment, connectionInfo: object = {}): object {
  return {
    ...presentSummary(attachment),
    attached_at: presentTimeOrNull(attachment.attached_at) ?? '',
    detached_at: '',
    attach_mode: attachment.mode,
    connection_info: connectionInfo,
  };
}

function present({ attachment, volume }: Found): object {
  return { attachment: presentDetails(attachment, connectionInfoOf({ attachment, volume })) };
}

/** What it is, with neither key nor path: a volume is served to guests of its own host, by Compute alone. */
function connectionInfoOf({ attachment: { id, mode, status }, volume }: Found): object {
  if (status === 'reserved') return {};
  return {
    driver_volume_type: 'nightlatch',
    attachment_id: id,
    volume_id: volume.id,
    access_mode: mode,
    encrypted: volume.encryption !== null,
  };
}
