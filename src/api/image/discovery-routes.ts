import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox';
import type { FastifyReply, FastifyRequest } from 'fastify';
import type { ImageDependencies } from '#api/image/dependencies.ts';
import { baseFields, imageDocument } from '#api/image/schemas.ts';
import { publicUrlOf } from '#api/public-url.ts';

const VERSION = 'v2.9';

/** Versions, schemas, and what may be imported (nothing). See Image API v2, "Versions", "Schemas", "Discovery". */
export function discoveryRoutes(deps: ImageDependencies): FastifyPluginAsyncTypebox {
  const versions = (request: FastifyRequest): object => {
    const links = [{ rel: 'self', href: `${publicUrlOf(request, deps.publicUrl)}/image/v2/` }];
    return { versions: [{ id: VERSION, status: 'CURRENT', links }] };
  };
  return async (app) => {
    const open = { config: { public: true } };
    app.get('/', open, async (request, reply: FastifyReply) => reply.status(300).send(versions(request)));
    app.get('/versions', open, async (request) => versions(request));
    app.get('/v2/schemas/image', async () => imageSchema);
    app.get('/v2/schemas/images', async () => listSchema('images', imageSchema));
    app.get('/v2/schemas/member', async () => memberSchema);
    app.get('/v2/schemas/members', async () => listSchema('members', memberSchema));
    app.get('/v2/info/import', async () => ({
      'import-methods': { description: 'Import methods available.', type: 'array', value: [] },
    }));
  };
}

const imageSchema = {
  name: 'image',
  properties: Object.fromEntries(baseFields.map((name) => [name, fieldSchema(name)])),
  additionalProperties: { type: 'string' },
  links: [
    { rel: 'self', href: '{self}' },
    { rel: 'enclosure', href: '{file}' },
    { rel: 'describedby', href: '{schema}' },
  ],
};

const memberSchema = {
  name: 'member',
  properties: {
    image_id: { type: 'string' },
    member_id: { type: 'string' },
    status: { type: 'string', enum: ['pending', 'accepted', 'rejected'] },
    created_at: { type: 'string' },
    updated_at: { type: 'string' },
    schema: { type: 'string', readOnly: true },
  },
};

function fieldSchema(name: string): object {
  const settable: Readonly<Record<string, object>> = imageDocument.properties;
  return settable[name] ?? { readOnly: name !== 'id' && name !== 'owner' };
}

function listSchema(name: string, item: object): object {
  return {
    name,
    properties: {
      [name]: { type: 'array', items: item },
      first: { type: 'string' },
      next: { type: 'string' },
      schema: { type: 'string' },
    },
  };
}
