import { crashPoint } from '#core/crash-point.ts';
import { badRequest, NightlatchError } from '#core/errors.ts';
import { volumeFormat } from '#core/volume-encryption.ts';
import type { Queryable } from '#db/database.ts';
import { disksOf, updateDisk } from '#db/disks.ts';
import { lockPlacement } from '#db/hosts.ts';
import { listPools } from '#db/volume-pools.ts';
import { encryptionOf, findVolumeType, type VolumeType } from '#db/volume-types.ts';
import { updateVolume, type Volume } from '#db/volumes.ts';
import type { OperationContext } from '#operations/context.ts';
import { copyDisk } from '#operations/create-volume.ts';
import { waitForReaders } from '#operations/delete-volume.ts';
import type { Operation } from '#operations/engine.ts';
import { exchangeForSuccessor, planSuccessor, type SuccessorColumns } from '#operations/successor-disk.ts';
import {
  finishAsBefore,
  needPlacedDisk,
  needVolume,
  placedDiskOf,
  type VolumeInput,
} from '#operations/volume-context.ts';
import { destroyVolumeDisk, storeVolumeKey } from '#operations/volume-steps.ts';
import { chooseBackend } from '#placement/choose-backend.ts';

/**
 * Retype volume. Where the new type asks for other encryption, or for another backend, its data moves to a disk made for
 * that, under a key of its own; the volume keeps the one it has until then.
 *
 * | step      | effect                                              | compensation                    | a repeat         |
 * |-----------|-----------------------------------------------------|---------------------------------|------------------|
 * | wait      | what is being made from it has ended                | –                               | fine             |
 * | plan      | a row for the disk that is coming, if there must be another | the row ended           | keeps the row    |
 * | store-key | its secret is stored                                | secret destroyed                | keeps the secret |
 * | copy      | it holds what the volume holds, both locked         | header overwritten, medium gone | starts over      |
 * | exchange  | the volume has it, and the new type                 | none: the point of no return    | finds it done    |
 * | remove    | the one before and its secret are destroyed         | none                            | fine             |
 * | finish    | the status it had                                   | –                               | same             |
 */
export function retypeVolume(context: OperationContext): Operation<VolumeInput> {
  const discard = ({ volumeId, requestId }: VolumeInput) => destroyVolumeDisk(context, volumeId, requestId, 'coming');
  const storeKey = storeVolumeKey(context, ({ volumeId }: VolumeInput) => volumeId, 'coming');
  return {
    name: 'retype-volume',
    steps: [
      waitForReaders(context),
      { name: 'plan', run: (input) => plan(context, input), undo: discard },
      {
        ...storeKey,
        run: async (input) => {
          if (await placedDiskOf(context, input.volumeId, 'coming')) await storeKey.run(input);
        },
      },
      { name: 'copy', run: (input) => copy(context, input), undo: discard },
      { name: 'exchange', run: (input) => exchange(context, input) },
      { name: 'remove', run: ({ volumeId, requestId }) => destroyVolumeDisk(context, volumeId, requestId, 'kept') },
      { name: 'finish', run: (input) => finishAsBefore(context, input) },
    ],
    failed: (input) => finishAsBefore(context, input),
  };
}

/** What a volume's disk must be of another type; null: it may stay as it is. */
export async function neededChange(tx: Queryable, volume: Volume, type: VolumeType): Promise<SuccessorColumns | null> {
  const [live] = (await disksOf(tx, volume.id)).filter(({ standing }) => standing === 'live');
  if (!live) throw new Error(`volume ${volume.id} has no disk`);
  const encryption = type.encryption === null ? null : volumeFormat(type.encryption);
  await lockPlacement(tx);
  const pools = (await listPools(tx)).filter((pool) => pool.isUp);
  const near = live.host === null ? null : { host: live.host, backend: live.backend };
  const demand = { sizeGib: 0, format: encryption, extraSpecs: type.extra_specs, near };
  const { chosen, reason } = chooseBackend(pools, demand);
  if (!chosen) throw new NightlatchError('no-valid-backend', { reason });
  const { backend } = chosen;
  if (backend.name === live.backend && encryption === live.encryption) return null;
  return { backend: backend.name, storage: backend.storage, encrypted: encryption !== null, encryption };
}

async function typeOf(db: Queryable, { retype, volumeId }: VolumeInput): Promise<VolumeType> {
  const type = retype ? await findVolumeType(db, retype.typeId, null) : null;
  if (!type) throw badRequest(`Retyping volume ${volumeId} failed: its new type is gone.`);
  return type;
}

async function plan(context: OperationContext, input: VolumeInput): Promise<void> {
  const volume = await needVolume(context, input.volumeId);
  const change = await context.db
    .transaction()
    .execute(async (tx) => neededChange(tx, volume, await typeOf(tx, input)));
  if (change !== null) await planSuccessor(context, input.volumeId, async () => change);
}

async function copy(context: OperationContext, { volumeId, requestId }: VolumeInput): Promise<void> {
  const coming = await placedDiskOf(context, volumeId, 'coming');
  if (!coming || coming.disk.state === 'formatted') return;
  const { disk } = coming;
  const { disk: from } = await needPlacedDisk(context, volumeId);
  await copyDisk(context, { from, disk, requestId, isNewKey: true });
  crashPoint('steps.retype-volume.copied');
  await updateDisk(context.db, disk.id, { state: 'formatted' });
}

async function exchange(context: OperationContext, input: VolumeInput): Promise<void> {
  const type = await typeOf(context.db, input);
  const coming = await placedDiskOf(context, input.volumeId, 'coming');
  const change = async (tx: Queryable) => {
    const encryption = encryptionOf(type);
    await updateVolume(tx, input.volumeId, {
      volume_type_id: type.id,
      encryption: encryption && JSON.stringify(encryption),
      ...(coming ? { backend: coming.disk.backend } : {}),
    });
  };
  if (coming) await exchangeForSuccessor(context, input.volumeId, change);
  else await context.db.transaction().execute(change);
}
