import { badRequest, NightlatchError } from '#core/errors.ts';
import { volumeFormat } from '#core/volume-encryption.ts';
import type { Queryable } from '#db/database.ts';
import { liveDiskOf } from '#db/disks.ts';
import { lockPlacement } from '#db/hosts.ts';
import { listPools } from '#db/volume-pools.ts';
import { encryptionOf, findVolumeType, type VolumeType } from '#db/volume-types.ts';
import { lockVolume, type Volume } from '#db/volumes.ts';
import type { OperationContext } from '#operations/context.ts';
import type { Operation } from '#operations/engine.ts';
import { moveVolume } from '#operations/move-volume.ts';
import type { SuccessorColumns } from '#operations/successor-disk.ts';
import type { VolumeInput } from '#operations/volume-context.ts';
import { chooseBackend } from '#placement/choose-backend.ts';

/**
 * Retype volume. Where the new type asks for other encryption, or for another backend, its data moves, see `moveVolume`.
 */
export function retypeVolume(context: OperationContext): Operation<VolumeInput> {
  return moveVolume(context, {
    name: 'retype-volume',
    async change(tx, input) {
      const volume = await lockVolume(tx, input.volumeId);
      // Once it is of that type it has the disk for it.
      return volume.volume_type_id === input.retype?.typeId
        ? null
        : await neededChange(tx, volume, await typeOf(tx, input));
    },
    async columns(tx, input) {
      const type = await typeOf(tx, input);
      const encryption = encryptionOf(type);
      const live = await liveDiskOf(tx, input.volumeId);
      return {
        volume_type_id: type.id,
        encryption: encryption && JSON.stringify(encryption),
        backend: live?.backend ?? null,
      };
    },
  });
}

/** What a volume's disk must be of another type; null: it may stay as it is. */
export async function neededChange(tx: Queryable, volume: Volume, type: VolumeType): Promise<SuccessorColumns | null> {
  const live = await liveDiskOf(tx, volume.id);
  if (!live) throw new Error(`volume ${volume.id} has no disk`);
  const encryption = type.encryption === null ? null : volumeFormat(type.encryption);
  await lockPlacement(tx);
  const pools = (await listPools(tx)).filter((pool) => pool.isUp);
  const near = live.host === null ? null : { host: live.host, backend: live.backend };
  const demand = { sizeGib: 0, format: encryption, extraSpecs: type.extra_specs, near };
  const isStaying = chooseBackend(pools, demand).chosen?.backend.name === live.backend;
  if (isStaying && encryption === live.encryption) return null;
  const { chosen, reason } = chooseBackend(pools, { ...demand, sizeGib: volume.size_gib });
  if (!chosen) throw new NightlatchError('no-valid-backend', { reason });
  const { backend } = chosen;
  return { backend: backend.name, storage: backend.storage, encrypted: encryption !== null, encryption };
}

async function typeOf(db: Queryable, { retype, volumeId }: VolumeInput): Promise<VolumeType> {
  const type = retype ? await findVolumeType(db, retype.typeId, null) : null;
  if (!type) throw badRequest(`Retyping volume ${volumeId} failed: its new type is gone.`);
  return type;
}
