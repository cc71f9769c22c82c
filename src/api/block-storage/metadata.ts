import type { ApiApp } from '#api/app.ts';
import { Metadata } from '#api/block-storage/fields.ts';
import { allowed, type BlockStorageAction } from '#api/block-storage/policy.ts';
import type { BlockStorageServices } from '#api/block-storage/services.ts';
import { getSnapshot, getVolume } from '#api/block-storage/volume-lookup.ts';
import { addMetadataRoutes } from '#api/metadata-routes.ts';
import { lockSnapshot, updateSnapshot } from '#db/snapshots.ts';
import { lockVolume, updateVolume } from '#db/volumes.ts';

/** Metadata of volumes and of snapshots. */
export function addBlockStorageMetadata(app: ApiApp, { db }: BlockStorageServices): void {
  const common = { schema: Metadata, deleted: 200 } as const;
  addMetadataRoutes<BlockStorageAction>(app, {
    ...common,
    path: 'volumes',
    policy: {
      list: 'volume:get_volume_metadata',
      create: 'volume:create_volume_metadata',
      replace: 'volume:update_volume_metadata',
      show: 'volume:get_volume_metadata',
      update: 'volume:update_volume_metadata',
      delete: 'volume:delete_volume_metadata',
    },
    find: (request, id, action) => getVolume(db, id, allowed(request, action)),
    change: (id, change) =>
      db.transaction().execute(async (tx) => {
        const volume = await lockVolume(tx, id as never);
        const metadata = change(volume.metadata);
        await updateVolume(tx, volume.id, { metadata: JSON.stringify(metadata) });
        return metadata;
      }),
  });
  addMetadataRoutes<BlockStorageAction>(app, {
    ...common,
    path: 'snapshots',
    policy: {
      list: 'volume:get_snapshot_metadata',
      create: 'volume:update_snapshot_metadata',
      replace: 'volume:update_snapshot_metadata',
      show: 'volume:get_snapshot_metadata',
      update: 'volume:update_snapshot_metadata',
      delete: 'volume:delete_snapshot_metadata',
    },
    find: (request, id, action) => getSnapshot(db, id, allowed(request, action)),
    change: (id, change) =>
      db.transaction().execute(async (tx) => {
        const snapshot = await lockSnapshot(tx, id as never);
        const metadata = change(snapshot.metadata);
        await updateSnapshot(tx, snapshot.id, { metadata: JSON.stringify(metadata) });
        return metadata;
      }),
  });
}
