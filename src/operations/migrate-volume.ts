import { badRequest } from '#core/errors.ts';
import type { BackendName } from '#core/ids.ts';
import type { Queryable } from '#db/database.ts';
import { liveDiskOf } from '#db/disks.ts';
import { lockPlacement } from '#db/hosts.ts';
import { listPools } from '#db/volume-pools.ts';
import { findVolumeType } from '#db/volume-types.ts';
import { findVolume, type Volume } from '#db/volumes.ts';
import type { OperationContext } from '#operations/context.ts';
import type { Operation } from '#operations/engine.ts';
import { moveVolume } from '#operations/move-volume.ts';
import type { SuccessorColumns } from '#operations/successor-disk.ts';
import type { VolumeInput } from '#operations/volume-context.ts';
import { chooseBackend } from '#placement/choose-backend.ts';

/** Migrate volume: it lies in another backend of its host. See `moveVolume`. */
export function migrateVolume(context: OperationContext): Operation<VolumeInput> {
  return moveVolume(context, {
    name: 'migrate-volume',
    async change(tx, { volumeId, destination }) {
      const volume = await findVolume(tx, volumeId);
      if (!volume || destination === undefined) throw new Error(`migrating volume ${volumeId} has no destination`);
      return await placeIn(tx, volume, destination);
    },
    columns: async (_tx, { destination }) => ({ backend: destination ?? null }),
  });
}

/** How a volume's disk lies in another backend of its host. *Throws* bad-request when it cannot lie there. */
export async function placeIn(tx: Queryable, volume: Volume, destination: BackendName): Promise<SuccessorColumns> {
  const live = await liveDiskOf(tx, volume.id);
  if (!live?.host) throw new Error(`volume ${volume.id} lies nowhere`);
  await lockPlacement(tx);
  const type = volume.volume_type_id === null ? null : await findVolumeType(tx, volume.volume_type_id, null);
  const there = (await listPools(tx)).filter(
    ({ isUp, host, backend }) => isUp && host === live.host && backend.name === destination,
  );
  const { chosen, reason } = chooseBackend(there, {
    sizeGib: volume.size_gib,
    format: live.encryption,
    extraSpecs: type?.extra_specs ?? {},
    near: { host: live.host, backend: destination },
  });
  if (!chosen)
    throw badRequest(`Invalid volume: Migrating volume ${volume.id} to ${live.host}@${destination} failed: ${reason}`);
  return { backend: destination, storage: chosen.backend.storage };
}
