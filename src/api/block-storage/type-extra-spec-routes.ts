import type { ApiApp } from '#api/app.ts';
import { allowed } from '#api/block-storage/policy.ts';
import type { BlockStorageServices } from '#api/block-storage/services.ts';
import { getVolumeType, noVolumeType } from '#api/block-storage/type-lookup.ts';
import { visibleSpecs } from '#api/block-storage/type-presenter.ts';
import { CreateExtraSpecs, UpdateExtraSpec } from '#api/block-storage/type-schemas.ts';
import { badRequest, NightlatchError, shorten } from '#core/errors.ts';
import { checkTypeExtraSpecs, type TypeExtraSpecs } from '#core/volume-type.ts';
import { changeUnusedType, type VolumeType } from '#db/volume-types.ts';

type Ids = { id: string; key: string };

/** Extra specs of a volume type: which backends suit it, and what copies of its volumes get. */
export function addTypeExtraSpecRoutes(app: ApiApp, { db }: BlockStorageServices): void {
  app.get('/types/:id/extra_specs', async (request) => {
    const context = allowed(request, 'volume_extension:types_extra_specs:index');
    const type = await getVolumeType(db, (request.params as Ids).id, context);
    return { extra_specs: visibleSpecs(type.extra_specs, context) };
  });
  app.get('/types/:id/extra_specs/:key', async (request) => {
    const context = allowed(request, 'volume_extension:types_extra_specs:show');
    const { id, key } = request.params as Ids;
    const specs = visibleSpecs((await getVolumeType(db, id, context)).extra_specs, context);
    if (!Object.hasOwn(specs, key)) throw noSpec(id, key);
    return { [key]: specs[key] };
  });
  app.post('/types/:id/extra_specs', { schema: { body: CreateExtraSpecs } }, async (request) => {
    const context = allowed(request, 'volume_extension:types_extra_specs:create');
    const type = await getVolumeType(db, (request.params as Ids).id, context);
    await change(type, request.body.extra_specs);
    return request.body;
  });
  app.put('/types/:id/extra_specs/:key', { schema: { body: UpdateExtraSpec } }, async (request) => {
    const context = allowed(request, 'volume_extension:types_extra_specs:update');
    const { id, key } = request.params as Ids;
    const type = await getVolumeType(db, id, context);
    if (!Object.hasOwn(request.body, key)) throw badRequest('Request body and URI mismatch');
    await change(type, request.body);
    return request.body;
  });
  app.delete('/types/:id/extra_specs/:key', async (request, reply) => {
    const context = allowed(request, 'volume_extension:types_extra_specs:delete');
    const { id, key } = request.params as Ids;
    const type = await getVolumeType(db, id, context);
    const outcome = await changeUnusedType(db, type.id, ({ extra_specs }) => {
      const kept = Object.entries(extra_specs).filter(([name]) => name !== key);
      const isThere = Object.hasOwn(extra_specs, key);
      return isThere ? { extra_specs: JSON.stringify(Object.fromEntries(kept)) } : null;
    });
    if (outcome === 'unchanged') throw noSpec(id, key);
    refuseUnlessChanged(type, outcome);
    return await reply.status(202).send();
  });

  async function change(type: VolumeType, specs: TypeExtraSpecs): Promise<void> {
    checkTypeExtraSpecs(specs);
    const outcome = await changeUnusedType(db, type.id, ({ extra_specs }) => {
      return { extra_specs: JSON.stringify({ ...extra_specs, ...specs }) };
    });
    refuseUnlessChanged(type, outcome);
  }
}

function refuseUnlessChanged({ id }: VolumeType, outcome: Awaited<ReturnType<typeof changeUnusedType>>): void {
  if (outcome === null) throw noVolumeType(id);
  if (outcome === 'in-use') throw badRequest('Volume Type is currently in use.');
}

function noSpec(id: string, key: string): NightlatchError {
  const reason = `Volume Type ${shorten(id)} has no extra specs with key ${shorten(key)}.`;
  return new NightlatchError('not-there', { reason });
}
