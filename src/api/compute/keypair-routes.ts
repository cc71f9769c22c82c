import type { FastifyRequest } from 'fastify';
import type { ApiApp } from '#api/app.ts';
import type { RequestContext } from '#api/auth.ts';
import { CreateKeypair } from '#api/compute/keypair-schemas.ts';
import { nextPage } from '#api/compute/links.ts';
import { has } from '#api/compute/microversions.ts';
import { allowed, allowedFor, type ComputeAction } from '#api/compute/policy.ts';
import type { ComputeServices } from '#api/compute/services.ts';
import { makeSshKeyPair, readSshPublicKey } from '#api/compute/ssh-key.ts';
import { isStorableText } from '#api/fields.ts';
import { MAX_LIMIT, Query } from '#api/query.ts';
import { badRequest, NightlatchError, shorten } from '#core/errors.ts';
import type { UserId } from '#core/ids.ts';
import type { Queryable } from '#db/database.ts';
import { deleteKeypair, findKeypair, insertKeypair, type Keypair, listKeypairs } from '#db/keypairs.ts';

/** Public keys of users, which servers get on their config drive. See Compute API "Keypairs". */
export function addKeypairRoutes(app: ApiApp, { db, publicUrl }: ComputeServices): void {
  app.get('/os-keypairs', async (request) => {
    const userId = userOf(request, 'os_compute_api:os-keypairs:index');
    const query = new Query(request);
    const pages = has(request, 'keypair-paging');
    const after = pages ? query.text('marker') : null;
    if (after !== null && !(await findKeypair(db, userId, after))) {
      throw badRequest(`marker [${shorten(after)}] not found`);
    }
    const limit = pages ? query.limit() : MAX_LIMIT;
    const keypairs = await listKeypairs(db, userId, { after, limit });
    const ids = keypairs.map(({ name }) => name);
    const next = pages ? nextPage(request, publicUrl, { path: 'os-keypairs', limit, ids }) : [];
    return {
      keypairs: keypairs.map((keypair) => ({ keypair: present(request, keypair) })),
      ...(next.length > 0 ? { keypairs_links: next } : {}),
    };
  });
  app.get<{ Params: { name: string } }>('/os-keypairs/:name', async (request) => {
    const userId = userOf(request, 'os_compute_api:os-keypairs:show');
    const keypair = await getKeypair(db, userId, request.params.name);
    const { id, created_at, user_id } = keypair;
    const whole = { id, user_id, created_at: created_at.toISOString().slice(0, -5) };
    return { keypair: { ...present(request, keypair), ...whole, deleted: false, deleted_at: null, updated_at: null } };
  });
  app.post('/os-keypairs', { schema: { body: CreateKeypair } }, async (request, reply) => {
    reply.status(has(request, 'keypair-type') ? 201 : 200);
    return { keypair: await create(request, request.body, db) };
  });
  app.delete<{ Params: { name: string } }>('/os-keypairs/:name', async (request, reply) => {
    const userId = userOf(request, 'os_compute_api:os-keypairs:delete');
    const { name } = request.params;
    if (!isStorableText(name) || !(await deleteKeypair(db, userId, name))) throw noKeypair(name);
    return await reply.status(has(request, 'keypair-type') ? 204 : 202).send();
  });
}

/** The public key that a server is to have. @throws bad-request (400) when its user has none of this name. */
export async function getServerKey(
  db: Queryable,
  { userId }: RequestContext,
  name: string | null | undefined,
): Promise<{ readonly name: string; readonly publicKey: string } | null> {
  if (name == null) return null;
  const keypair = await findKeypair(db, userId, name);
  if (!keypair) throw badRequest('Invalid key_name provided.');
  return { name, publicKey: keypair.public_key };
}

async function create(request: FastifyRequest, { keypair: asked }: CreateKeypair, db: Queryable): Promise<object> {
  const isNewer = has(request, 'keypair-import-only');
  if (!(isNewer ? NAME : OLDER_NAME).test(asked.name)) {
    throw badRequest('Keypair data is invalid: Keypair name contains unsafe characters');
  }
  if (asked.user_id !== undefined && !has(request, 'keypair-of-user')) throw unexpected('user_id');
  if (asked.type !== undefined && !has(request, 'keypair-type')) throw unexpected('type');
  if (asked.type === 'x509') throw badRequest('Key pairs of type x509 are not served. Use type ssh.');
  if (asked.public_key == null && isNewer) throw badRequest("'public_key' is a required property");
  const userId = userOf(request, 'os_compute_api:os-keypairs:create', asked.user_id);
  const key =
    asked.public_key == null
      ? await makeSshKeyPair('Generated-by-Nova')
      : { ...readSshPublicKey(asked.public_key), privateKey: null };
  const { line: public_key, fingerprint, privateKey } = key;
  const stored = await insertKeypair(db, { user_id: userId, name: asked.name, public_key, fingerprint });
  if (!stored) throw new NightlatchError('conflict', { reason: `Key pair '${asked.name}' already exists.` });
  return {
    ...present(request, stored),
    user_id: userId,
    ...(privateKey === null ? {} : { private_key: privateKey }),
  };
}

/** Nova's, of either age. */
const OLDER_NAME = /^[a-zA-Z0-9 _-]+$/;
const NAME = /^[a-zA-Z0-9 @._-]+$/;

/** Whose key pairs the request is about: the caller's own, or, for an admin, those of the user it names. */
function userOf(request: FastifyRequest, action: ComputeAction, asked?: string): UserId {
  const { userId } = allowed(request, action);
  const other = asked ?? (has(request, 'keypair-of-user') ? new Query(request).text('user_id') : null);
  if (other === null || other === userId) return userId;
  allowedFor(request, action, other as UserId);
  return other as UserId;
}

async function getKeypair(db: Queryable, userId: UserId, name: string): Promise<Keypair> {
  const keypair = isStorableText(name) ? await findKeypair(db, userId, name) : null;
  if (!keypair) throw noKeypair(name);
  return keypair;
}

function present(request: FastifyRequest, { name, public_key, fingerprint }: Keypair): object {
  return { name, public_key, fingerprint, ...(has(request, 'keypair-type') ? { type: 'ssh' } : {}) };
}

function noKeypair(name: string): NightlatchError {
  return new NightlatchError('not-there', { reason: `Keypair ${shorten(name)} not found for user.` });
}

function unexpected(field: string): NightlatchError {
  return badRequest(`Additional properties are not allowed ('${field}' was unexpected)`);
}
