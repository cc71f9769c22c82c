import type { FastifyRequest } from 'fastify';
import type { ApiApp } from '#api/app.ts';
import { allowed, type BlockStorageAction } from '#api/block-storage/policy.ts';
import type { BlockStorageServices } from '#api/block-storage/services.ts';
import { getSnapshot, getVolume } from '#api/block-storage/volume-lookup.ts';
import { MetadataBody, MetadataItemBody } from '#api/block-storage/volume-schemas.ts';
import { badRequest, NightlatchError, shorten } from '#core/errors.ts';
import { lockSnapshot, updateSnapshot } from '#db/snapshots.ts';
import { lockVolume, updateVolume } from '#db/volumes.ts';

type Metadata = Readonly<Record<string, string>>;
type Ids = { id: string; key: string };

/** A kind of thing that has metadata: who may do what with it, how it is found and changed. */
type Kind = {
  readonly path: string;
  readonly policy: Readonly<Record<'get' | 'create' | 'update' | 'delete', BlockStorageAction>>;
  readonly find: (request: FastifyRequest, action: BlockStorageAction) => Promise<{ id: string; metadata: Metadata }>;
  /** As one step: of changes at once none is lost. */
  readonly change: (id: string, change: (old: Metadata) => Metadata) => Promise<Metadata>;
};

/** Metadata of volumes and of snapshots. See Block Storage API v3 "Volume metadata", "Snapshot metadata". */
export function addVolumeMetadataRoutes(app: ApiApp, { db }: BlockStorageServices): void {
  const kinds: readonly Kind[] = [
    {
      path: 'volumes',
      policy: {
        get: 'volume:get_volume_metadata',
        create: 'volume:create_volume_metadata',
        update: 'volume:update_volume_metadata',
        delete: 'volume:delete_volume_metadata',
      },
      find: (request, action) => getVolume(db, (request.params as Ids).id, allowed(request, action)),
      change: (id, change) =>
        db.transaction().execute(async (tx) => {
          const volume = await lockVolume(tx, id as never);
          const metadata = change(volume.metadata);
          await updateVolume(tx, volume.id, { metadata: JSON.stringify(metadata) });
          return metadata;
        }),
    },
    {
      path: 'snapshots',
      policy: {
        get: 'volume:get_snapshot_metadata',
        create: 'volume:update_snapshot_metadata',
        update: 'volume:update_snapshot_metadata',
        delete: 'volume:delete_snapshot_metadata',
      },
      find: (request, action) => getSnapshot(db, (request.params as Ids).id, allowed(request, action)),
      change: (id, change) =>
        db.transaction().execute(async (tx) => {
          const snapshot = await lockSnapshot(tx, id as never);
          const metadata = change(snapshot.metadata);
          await updateSnapshot(tx, snapshot.id, { metadata: JSON.stringify(metadata) });
          return metadata;
        }),
    },
  ];
  for (const kind of kinds) addRoutes(app, kind);
}

function addRoutes(app: ApiApp, { path, policy, find, change }: Kind): void {
  app.get(`/${path}/:id/metadata`, async (request) => ({ metadata: (await find(request, policy.get)).metadata }));
  app.post(`/${path}/:id/metadata`, { schema: { body: MetadataBody } }, async (request) => {
    const { id } = await find(request, policy.create);
    return { metadata: await change(id, (old) => ({ ...old, ...request.body.metadata })) };
  });
  app.put(`/${path}/:id/metadata`, { schema: { body: MetadataBody } }, async (request) => {
    const { id } = await find(request, policy.update);
    return { metadata: await change(id, () => request.body.metadata) };
  });
  app.get(`/${path}/:id/metadata/:key`, async (request) => {
    const { metadata } = await find(request, policy.get);
    return { meta: itemOf(metadata, (request.params as Ids).key) };
  });
  app.put(`/${path}/:id/metadata/:key`, { schema: { body: MetadataItemBody } }, async (request) => {
    const { id } = await find(request, policy.update);
    const { key } = request.params as Ids;
    const { meta } = request.body;
    if (!Object.hasOwn(meta, key)) throw badRequest('Request body and URI mismatch');
    if (Object.keys(meta).length > 1) throw badRequest('Request body contains too many items');
    await change(id, (old) => ({ ...old, ...meta }));
    return { meta };
  });
  app.delete(`/${path}/:id/metadata/:key`, async (request, reply) => {
    const { id } = await find(request, policy.delete);
    const { key } = request.params as Ids;
    await change(id, (old) => {
      itemOf(old, key);
      return Object.fromEntries(Object.entries(old).filter(([name]) => name !== key));
    });
    return await reply.status(200).send();
  });
}

function itemOf(metadata: Metadata, key: string): Record<string, string> {
  const value = Object.hasOwn(metadata, key) ? metadata[key] : undefined;
  if (value === undefined)
    throw new NightlatchError('not-there', { reason: `Metadata item was not found: ${shorten(key)}` });
  return { [key]: value };
}
