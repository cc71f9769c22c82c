import type { FastifyRequest } from 'fastify';
import { Type } from 'typebox';
import type { ApiApp } from '#api/app.ts';
import { flagFrom } from '#api/block-storage/fields.ts';
import { allowed } from '#api/block-storage/policy.ts';
import type { BlockStorageServices } from '#api/block-storage/services.ts';
import { exactly, MAX_INT } from '#api/fields.ts';
import { Query } from '#api/query.ts';
import { badRequest, shorten } from '#core/errors.ts';
import type { ProjectId } from '#core/ids.ts';
import type { Amounts } from '#core/volume-quota.ts';
import {
  classLimits,
  clearLimits,
  DEFAULT_CLASS,
  projectLimits,
  projectUse,
  setLimits,
  setProjectLimits,
} from '#db/volume-quotas.ts';

/** Whose id or name it is, with the limits, each by its name. */
const Limits = Type.Record(Type.String({ maxLength: 300 }), Type.Union([Type.Integer(), Type.String(), Type.Null()]), {
  minProperties: 1,
});
const UpdateQuotaSet = exactly({ quota_set: Limits });
const UpdateQuotaClass = exactly({ quota_class_set: Limits });

/** Names that clients send with a quota set and that limit nothing. */
const noQuotas = ['tenant_id', 'id'];

/** How much a project may use. See Block Storage API v3 "Quota sets extension" and "Quota class set extension". */
export function addQuotaRoutes(app: ApiApp, { db }: BlockStorageServices): void {
  app.get('/os-quota-sets/:id', async (request) => {
    const id = ownerOf(request) as ProjectId;
    allowed(request, 'volume_extension:quotas:show', id);
    const limits = await projectLimits(db, id);
    if (!flagFrom('usage', new Query(request).text('usage'))) return { quota_set: { ...limits, id } };
    const use = await projectUse(db, id);
    const detail = Object.entries(limits).map(([resource, limit]) => {
      return [resource, { limit, in_use: use[resource] ?? 0, reserved: 0 }];
    });
    return { quota_set: { ...Object.fromEntries(detail), id } };
  });
  app.get('/os-quota-sets/:id/defaults', async (request) => {
    const id = ownerOf(request);
    allowed(request, 'volume_extension:quotas:show', id);
    return { quota_set: { ...(await classLimits(db, DEFAULT_CLASS)), id } };
  });
  app.put('/os-quota-sets/:id', { schema: { body: UpdateQuotaSet } }, async (request) => {
    allowed(request, 'volume_extension:quotas:update');
    const id = ownerOf(request) as ProjectId;
    const limits = checkedLimits('quota set', request.body.quota_set, await projectLimits(db, id));
    const over = await setProjectLimits(db, id, limits);
    if (over) {
      throw badRequest(
        `Quota ${over.resource} limit must be equal or greater than existing resources. Current usage is ${over.inUse} and the requested limit is ${limits[over.resource]}.`,
      );
    }
    return { quota_set: await projectLimits(db, id) };
  });
  app.delete('/os-quota-sets/:id', async (request, reply) => {
    allowed(request, 'volume_extension:quotas:delete');
    await clearLimits(db, ownerOf(request));
    return await reply.status(200).send();
  });
  app.get('/os-quota-class-sets/:id', async (request) => {
    allowed(request, 'volume_extension:quota_classes:get');
    const id = ownerOf(request);
    return { quota_class_set: { ...(await classLimits(db, id)), id } };
  });
  app.put('/os-quota-class-sets/:id', { schema: { body: UpdateQuotaClass } }, async (request) => {
    allowed(request, 'volume_extension:quota_classes:update');
    const owner = ownerOf(request);
    const known = await classLimits(db, owner);
    await setLimits(
      db,
      { kind: 'class', owner },
      checkedLimits('quota class set', request.body.quota_class_set, known),
    );
    return { quota_class_set: await classLimits(db, owner) };
  });
}

function ownerOf(request: FastifyRequest): string {
  const { id } = request.params as { id: string };
  if (id.length > 255) throw badRequest('quota_set_name has more than 255 characters.');
  return id;
}

/** The limits as numbers. @throws bad-request (400) for names that are none and numbers out of range. */
function checkedLimits(
  what: string,
  asked: Readonly<Record<string, number | string | null>>,
  known: Amounts,
): Record<string, number> {
  const entries = Object.entries(asked).filter(([name]) => !noQuotas.includes(name));
  const bad = entries.filter(([name]) => !Object.hasOwn(known, name)).map(([name]) => shorten(name, 64));
  if (bad.length > 0) throw badRequest(`Invalid input received: Bad key(s) in ${what}: ${shorten(bad.join(', '))}`);
  return Object.fromEntries(entries.map(([name, value]) => [name, limitFrom(name, value)]));
}

function limitFrom(name: string, value: number | string | null): number {
  const number = typeof value === 'string' && /^\s*-?\d{1,10}\s*$/.test(value) ? Number(value) : value;
  if (typeof number !== 'number') throw badRequest(`${name} must be an integer.`);
  if (number < -1) throw badRequest(`${name} must be >= -1`);
  if (number > MAX_INT) throw badRequest(`${name} must be <= ${MAX_INT}`);
  return number;
}
