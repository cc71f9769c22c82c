import type { ApiApp } from '#api/app.ts';
import { toBoolean } from '#api/block-storage/fields.ts';
import { nextPage } from '#api/block-storage/links.ts';
import { allowed } from '#api/block-storage/policy.ts';
import type { BlockStorageServices } from '#api/block-storage/services.ts';
import { selectTypes } from '#api/block-storage/type-list.ts';
import { getDefaultVolumeType, getVolumeType, noVolumeType } from '#api/block-storage/type-lookup.ts';
import { presentChangedType, presentNewType, presentType } from '#api/block-storage/type-presenter.ts';
import { CreateType, UpdateType } from '#api/block-storage/type-schemas.ts';
import { badRequest, NightlatchError, shorten } from '#core/errors.ts';
import { newId, type VolumeTypeId } from '#core/ids.ts';
import { checkTypeExtraSpecs, DEFAULT_VOLUME_TYPE } from '#core/volume-type.ts';
import {
  deleteVolumeType,
  insertVolumeType,
  updateVolumeType,
  type VolumeType,
  type VolumeTypeChange,
} from '#db/volume-types.ts';

type Ids = { id: string };

/** Volume types: list, show, create, update, delete. See Block Storage API v3 "Volume types". */
export function addTypeRoutes(app: ApiApp, { db, publicUrl, defaultVolumeType }: BlockStorageServices): void {
  app.get('/types', async (request) => {
    const { types, paging } = await selectTypes(request, db);
    const context = allowed(request, 'volume_extension:type_get_all');
    const next = nextPage(request, publicUrl, { path: 'types', limit: paging.limit, ids: types.map(({ id }) => id) });
    return {
      volume_types: types.map((type) => presentType(type, context)),
      ...(next.length > 0 ? { volume_type_links: next } : {}),
    };
  });
  app.get('/types/:id', async (request) => {
    const context = allowed(request, 'volume_extension:type_get');
    const { id } = request.params as Ids;
    const isDefault = id === 'default';
    const type = isDefault ? await getDefaultVolumeType(db, defaultVolumeType) : await getVolumeType(db, id, context);
    return { volume_type: presentType(type, context) };
  });
  app.post('/types', { schema: { body: CreateType } }, async (request) => {
    const context = allowed(request, 'volume_extension:type_create');
    return { volume_type: presentNewType(await createType(request.body.volume_type), context) };
  });
  app.put('/types/:id', { schema: { body: UpdateType } }, async (request) => {
    const context = allowed(request, 'volume_extension:type_update');
    const change = changeFrom(request.body.volume_type);
    const type = await getVolumeType(db, (request.params as Ids).id, context);
    keepDefaultName(type, change, defaultVolumeType);
    const changed = await updateVolumeType(db, type.id, change);
    if (changed === null) throw noVolumeType(type.id);
    if (changed === 'name') throw nameTaken(change.name ?? '');
    return { volume_type: presentChangedType(changed, context) };
  });
  app.delete('/types/:id', async (request, reply) => {
    const context = allowed(request, 'volume_extension:type_delete');
    const type = await getVolumeType(db, (request.params as Ids).id, context);
    if (type.name === DEFAULT_VOLUME_TYPE || type.name === defaultVolumeType) {
      throw badRequest(`The volume type ${type.id} is a default volume type and cannot be deleted.`);
    }
    const outcome = await deleteVolumeType(db, type.id);
    if (outcome === null) throw noVolumeType(type.id);
    if (outcome === 'in-use') throw badRequest('Target volume type is still in use.');
    return await reply.status(202).send();
  });

  async function createType(asked: CreateType): Promise<VolumeType> {
    const specs = asked.extra_specs ?? {};
    checkTypeExtraSpecs(specs);
    const stored = await insertVolumeType(db, {
      id: newId<VolumeTypeId>(),
      name: asked.name,
      description: asked.description ?? null,
      is_public: toBoolean(asked['os-volume-type-access:is_public'] ?? true),
      extra_specs: JSON.stringify(specs),
    });
    if (!stored) throw nameTaken(asked.name);
    return stored;
  }
}

function changeFrom({ name, description, is_public }: UpdateType): VolumeTypeChange {
  if (typeof name === 'string' && name.trim() === '') throw badRequest('Volume type name can not be empty.');
  const change = {
    ...(typeof name === 'string' ? { name } : {}),
    ...(typeof description === 'string' ? { description } : {}),
    ...(is_public === undefined ? {} : { is_public: toBoolean(is_public) }),
  };
  if (Object.keys(change).length > 0) return change;
  throw badRequest('Specify volume type name, description, is_public or a combination thereof.');
}

/** Cinder renames it and then fails to create volumes; here volumes without a type can always be created. */
function keepDefaultName(type: VolumeType, { name }: VolumeTypeChange, configured: string): void {
  const isDefault = type.name === DEFAULT_VOLUME_TYPE || type.name === configured;
  if (!isDefault || name === undefined || name === type.name) return;
  throw badRequest(`The volume type ${type.id} is a default volume type and cannot be renamed.`);
}

function nameTaken(name: string): NightlatchError {
  return new NightlatchError('conflict', { reason: `Volume Type ${shorten(name)} already exists.` });
}
