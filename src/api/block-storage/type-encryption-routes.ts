import { randomUUID } from 'node:crypto';
import type { ApiApp } from '#api/app.ts';
import { allowed } from '#api/block-storage/policy.ts';
import type { BlockStorageServices } from '#api/block-storage/services.ts';
import { getVolumeType, noVolumeType } from '#api/block-storage/type-lookup.ts';
import { presentEncryption, presentNewEncryption } from '#api/block-storage/type-presenter.ts';
import { CreateEncryption, UpdateEncryption } from '#api/block-storage/type-schemas.ts';
import { badRequest, NightlatchError, shorten } from '#core/errors.ts';
import { changeUnusedType, type UnusedChange, type VolumeType, type VolumeTypeEncryption } from '#db/volume-types.ts';

type Ids = { id: string; key: string };

/**
 * How volumes of a type are encrypted. A type has one encryption at most, so what an address says after `encryption/` when
 * it is changed or deleted names nothing: clients say `provider` there. See Block Storage API v3 "Volume types".
 */
export function addTypeEncryptionRoutes(app: ApiApp, { db }: BlockStorageServices): void {
  app.get('/types/:id/encryption', async (request) => {
    const context = allowed(request, 'volume_extension:volume_type_encryption:get');
    return presentEncryption(await getVolumeType(db, (request.params as Ids).id, context));
  });
  app.get('/types/:id/encryption/:key', async (request) => {
    const context = allowed(request, 'volume_extension:volume_type_encryption:get');
    const { id, key } = request.params as Ids;
    const encryption = presentEncryption(await getVolumeType(db, id, context));
    if (!Object.hasOwn(encryption, key)) throw noEncryption(id);
    return { [key]: encryption[key] };
  });
  app.post('/types/:id/encryption', { schema: { body: CreateEncryption } }, async (request) => {
    const context = allowed(request, 'volume_extension:volume_type_encryption:create');
    const type = await getVolumeType(db, (request.params as Ids).id, context);
    const asked = request.body.encryption;
    const encryption = newEncryption(asked);
    await change(type, 'create', ({ encryption: existing }) => {
      if (existing) throw badRequest(`Volume type encryption for type ${type.id} already exists.`);
      return { encryption: JSON.stringify(encryption) };
    });
    return { encryption: { ...asked, ...presentNewEncryption(type, encryption) } };
  });
  app.put('/types/:id/encryption/:key', { schema: { body: UpdateEncryption } }, async (request) => {
    const context = allowed(request, 'volume_extension:volume_type_encryption:update');
    const type = await getVolumeType(db, (request.params as Ids).id, context);
    const asked = request.body.encryption;
    await change(type, 'update', ({ encryption: existing }) => {
      if (!existing) throw noEncryption(type.id);
      return { encryption: JSON.stringify(changedEncryption(existing, asked)) };
    });
    return { encryption: { ...asked, ...('key_size' in asked ? { key_size: keySizeOf(asked) } : {}) } };
  });
  app.delete('/types/:id/encryption/:key', async (request, reply) => {
    const context = allowed(request, 'volume_extension:volume_type_encryption:delete');
    const type = await getVolumeType(db, (request.params as Ids).id, context);
    await change(type, 'delete', ({ encryption: existing }) => {
      if (!existing) throw noEncryption(type.id);
      return { encryption: null };
    });
    return await reply.status(202).send();
  });

  async function change({ id }: VolumeType, verb: string, make: UnusedChange): Promise<void> {
    const outcome = await changeUnusedType(db, id, make);
    if (outcome === null) throw noVolumeType(id);
    if (outcome === 'in-use') throw badRequest(`Cannot ${verb} encryption specs. Volume type in use.`);
  }
}

function newEncryption(asked: CreateEncryption): VolumeTypeEncryption {
  return {
    id: randomUUID(),
    provider: asked.provider,
    controlLocation: asked.control_location,
    cipher: asked.cipher ?? null,
    keySize: keySizeOf(asked),
    createdAt: new Date().toISOString(),
    updatedAt: null,
  };
}

function changedEncryption(existing: VolumeTypeEncryption, asked: UpdateEncryption): VolumeTypeEncryption {
  return {
    ...existing,
    ...(asked.provider === undefined ? {} : { provider: asked.provider }),
    ...(asked.control_location === undefined ? {} : { controlLocation: asked.control_location }),
    ...(asked.cipher === undefined ? {} : { cipher: asked.cipher }),
    ...(asked.key_size === undefined ? {} : { keySize: keySizeOf(asked) }),
    updatedAt: new Date().toISOString(),
  };
}

function keySizeOf({ key_size: size }: UpdateEncryption): number | null {
  return size === undefined || size === null ? null : Number(size);
}

function noEncryption(id: string): NightlatchError {
  const reason = `Volume type encryption for type ${shorten(id)} does not exist.`;
  return new NightlatchError('not-there', { reason });
}
