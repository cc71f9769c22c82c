import type { FastifyRequest } from 'fastify';
import type { ApiApp } from '#api/app.ts';
import { linksTo, nextPage } from '#api/block-storage/links.ts';
import { has, requireFeature } from '#api/block-storage/microversions.ts';
import { pageOf, pagingParameters, readPaging, type SortValues } from '#api/block-storage/paging.ts';
import { allowed, type BlockStorageAction } from '#api/block-storage/policy.ts';
import type { BlockStorageServices } from '#api/block-storage/services.ts';
import { Query } from '#api/query.ts';
import { presentTime } from '#api/times.ts';
import { badRequest, notFound, shorten } from '#core/errors.ts';
import { deleteMessage, findMessage, listMessages, type Message } from '#db/messages.ts';

/** What a list of messages can be restricted by. */
export const messageFilters = ['resource_uuid', 'resource_type', 'event_id', 'request_id', 'message_level'] as const;

const sortValues: SortValues<Message> = {
  id: ({ id }) => id,
  event_id: ({ event_id }) => event_id,
  resource_type: ({ resource_type }) => resource_type,
  resource_uuid: ({ resource_uuid }) => resource_uuid,
  request_id: ({ request_id }) => request_id,
  message_level: ({ message_level }) => message_level,
  created_at: ({ created_at }) => created_at.getTime(),
  guaranteed_until: ({ expires_at }) => expires_at.getTime(),
};

/** What failed after its request was answered. See Block Storage API v3 "Messages". */
export function addMessageRoutes(app: ApiApp, { db, publicUrl }: BlockStorageServices): void {
  app.get('/messages', async (request) => {
    requireFeature(request, 'messages');
    const { projectId } = allowed(request, 'message:get_all');
    const all = await listMessages(db, projectId);
    if (!has(request, 'messages-pagination')) return { messages: all.map((message) => present(request, message)) };
    const query = new Query(request);
    const paging = readPaging(query);
    const messages = pageOf(all.filter(matching(request, query)), paging, sortValues);
    const ids = messages.map(({ id }) => id);
    const next = nextPage(request, publicUrl, { path: 'messages', limit: paging.limit, ids });
    return {
      messages: messages.map((message) => present(request, message)),
      ...(next.length > 0 ? { messages_links: next } : {}),
    };
  });
  app.get('/messages/:id', async (request) => {
    requireFeature(request, 'messages');
    return { message: present(request, await getMessage(request, 'message:get')) };
  });
  app.delete('/messages/:id', async (request, reply) => {
    requireFeature(request, 'messages');
    const { id } = await getMessage(request, 'message:delete');
    await deleteMessage(db, id);
    return await reply.status(204).send();
  });

  /** Another project's is none, but for an admin. */
  async function getMessage(request: FastifyRequest, action: BlockStorageAction): Promise<Message> {
    const context = allowed(request, action);
    const { id } = request.params as { id: string };
    const message = await findMessage(db, id);
    if (!message || (message.project_id !== context.projectId && !context.isAdmin)) throw notFound('message', id);
    return message;
  }

  function present(request: FastifyRequest, message: Message): object {
    return {
      id: message.id,
      event_id: message.event_id,
      user_message: message.user_message,
      message_level: message.message_level,
      created_at: presentTime(message.created_at),
      guaranteed_until: presentTime(message.expires_at),
      request_id: message.request_id,
      resource_type: message.resource_type,
      resource_uuid: message.resource_uuid,
      links: linksTo(request, publicUrl, `messages/${message.id}`),
    };
  }
}

function matching(request: FastifyRequest, query: Query): (message: Message) => boolean {
  const unknown = query.names.find((name) => ![...pagingParameters, ...messageFilters].includes(name));
  if (unknown !== undefined && has(request, 'resource-filters')) {
    throw badRequest(`Invalid filters ${shorten(unknown, 64)} are found in query options.`);
  }
  return (message) => messageFilters.every((name) => [null, message[name]].includes(query.text(name)));
}
