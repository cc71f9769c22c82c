import type { FastifyRequest } from 'fastify';
import type { TRecord, TString } from 'typebox';
import type { ApiApp } from '#api/app.ts';
import { exactly } from '#api/fields.ts';
import { badRequest, NightlatchError, shorten } from '#core/errors.ts';

export type Metadata = Readonly<Record<string, string>>;

/** A kind of thing that has metadata: who may do what with it, how it is found and changed. */
export type MetadataOwner<Action> = {
  /** The collection in the URL, such as `servers`. */
  readonly path: string;
  readonly schema: TRecord<string, TString>;
  readonly policy: Readonly<Record<'list' | 'create' | 'replace' | 'show' | 'update' | 'delete', Action>>;
  /** What the answer to a deletion has. */
  readonly deleted: 200 | 204;
  readonly find: (
    request: FastifyRequest,
    id: string,
    action: Action,
  ) => Promise<{ readonly id: string; readonly metadata: Metadata }>;
  /** As one step: of changes at once none is lost. Returns what it is then. */
  readonly change: (id: string, change: (old: Metadata) => Metadata) => Promise<Metadata>;
};

type Ids = { id: string; key: string };
const idsOf = (request: FastifyRequest) => request.params as Ids;

/** Reads and changes metadata, whole and by item. See Compute API "Server metadata", Block Storage API v3 "Volume metadata". */
export function addMetadataRoutes<Action>(app: ApiApp, owner: MetadataOwner<Action>): void {
  const { path, schema, policy, deleted, change } = owner;
  const find = (request: FastifyRequest, action: Action) => owner.find(request, idsOf(request).id, action);
  const whole = { schema: { body: exactly({ metadata: schema }) } };
  const item = { schema: { body: exactly({ meta: schema }) } };

  app.get(`/${path}/:id/metadata`, async (request) => ({ metadata: (await find(request, policy.list)).metadata }));
  app.post(`/${path}/:id/metadata`, whole, async (request) => {
    const { id } = await find(request, policy.create);
    return { metadata: await change(id, (old) => ({ ...old, ...request.body.metadata })) };
  });
  app.put(`/${path}/:id/metadata`, whole, async (request) => {
    const { id } = await find(request, policy.replace);
    return { metadata: await change(id, () => request.body.metadata) };
  });
  app.get(`/${path}/:id/metadata/:key`, async (request) => {
    const { metadata } = await find(request, policy.show);
    return { meta: itemOf(metadata, idsOf(request).key) };
  });
  app.put(`/${path}/:id/metadata/:key`, item, async (request) => {
    const { id } = await find(request, policy.update);
    const { meta } = request.body;
    if (!Object.hasOwn(meta, idsOf(request).key)) throw badRequest('Request body and URI mismatch');
    if (Object.keys(meta).length > 1) throw badRequest('Request body contains too many items');
    await change(id, (old) => ({ ...old, ...meta }));
    return { meta };
  });
  app.delete(`/${path}/:id/metadata/:key`, async (request, reply) => {
    const { id } = await find(request, policy.delete);
    const { key } = idsOf(request);
    await change(id, (old) => {
      itemOf(old, key);
      return Object.fromEntries(Object.entries(old).filter(([name]) => name !== key));
    });
    return await reply.status(deleted).send();
  });
}

function itemOf(metadata: Metadata, key: string): Metadata {
  const value = Object.hasOwn(metadata, key) ? metadata[key] : undefined;
  if (value === undefined) {
    throw new NightlatchError('not-there', { reason: `Metadata item was not found: ${shorten(key)}` });
  }
  return { [key]: value };
}
