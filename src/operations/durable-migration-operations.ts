import { badRequest, type NightlatchError } from '#core/errors.ts';
import type { BackendName, VolumeId } from '#core/ids.ts';
import type { MigrationKind } from '#core/volume-migration.ts';
import type { Queryable } from '#db/database.ts';
import { snapshotsOf } from '#db/snapshots.ts';
import { beginMigration, wishOfMigration } from '#db/volume-migrations.ts';
import { holdVolumeType, type VolumeType } from '#db/volume-types.ts';
import { claimVolume, updateVolume } from '#db/volumes.ts';
import type { OperationContext } from '#operations/context.ts';
import { type Operation, pendingOn } from '#operations/engine.ts';
import { migrateVolume, placeIn } from '#operations/migrate-volume.ts';

import { reencryptVolume } from '#operations/reencrypt-volume.ts';
import { neededChange, retypeVolume } from '#operations/retype-volume.ts';
import type { Requester } from '#operations/server-operations.ts';
import type { VolumeInput } from '#operations/volume-context.ts';
import type { MigrationOperations } from '#operations/volume-operations.ts';

/** Every operation that may move a volume's data. */
export function migrationOperations(context: OperationContext): Operation<VolumeInput>[] {
  return [retypeVolume(context), reencryptVolume(context), migrateVolume(context)];
}

/** Sets moves of volumes' data going on the durable engine. */
export class DurableMigrationOperations implements MigrationOperations {
  readonly #context: OperationContext;

  constructor(context: OperationContext) {
    this.#context = context;
  }

  async retype(id: VolumeId, { id: typeId }: VolumeType, mayMove: boolean, { requestId }: Requester): Promise<void> {
    const operation = pendingOn<VolumeInput>('retype-volume', { volumeId: id, requestId, retype: { typeId } });
    await claimVolume(this.#context.db, id, 'retype', operation, async (tx, volume) => {
      const refuse = (why: string) => badRequest(`Invalid volume: Retyping volume ${id} failed: ${why}.`);
      if (volume.volume_type_id === typeId) throw refuse('it is of that type');
      // From here on it is in use, and stays what it is.
      const type = await holdVolumeType(tx, typeId);
      if (!type) throw refuse('the type was deleted');
      if ((await neededChange(tx, volume, type)) === null) return;
      if (!mayMove) throw refuse('its data would have to move. Use migration policy on-demand');
      if ((await snapshotsOf(tx, id)).length > 0) throw refuse('its data would have to move, and it has snapshots');
      await this.#begin(tx, id, 'retype', null);
    });
    await this.#context.engine.begin(operation);
  }

  async reencrypt(id: VolumeId, bytesPerSecond: number | null, { requestId }: Requester): Promise<void> {
    const operation = pendingOn<VolumeInput>('reencrypt-volume', { volumeId: id, requestId });
    await claimVolume(this.#context.db, id, 'rekey', operation, async (tx, volume) => {
      if (volume.encryption === null) throw badRequest(`Invalid volume: Volume ${id} is not encrypted.`);
      await this.#begin(tx, id, 'rekey', bytesPerSecond);
    });
    await this.#context.engine.begin(operation);
  }

  async migrate(id: VolumeId, destination: BackendName, isLocked: boolean, { requestId }: Requester): Promise<void> {
    const operation = pendingOn<VolumeInput>('migrate-volume', { volumeId: id, requestId, destination });
    await claimVolume(this.#context.db, id, 'migrate', operation, async (tx, volume) => {
      const hasSnapshots = (await snapshotsOf(tx, id)).length > 0;
      if (hasSnapshots || volume.backend === destination) {
        throw badRequest(
          `Invalid volume: Volume ${id} status must be available or in-use, must not be migrating, have snapshots, be replicated, be part of a group and destination host/cluster must be different than the current one`,
        );
      }
      await placeIn(tx, volume, destination);
      await this.#begin(tx, id, 'migrate', null);
      if (isLocked && volume.status === 'available')
        await updateVolume(tx, id, { status: 'maintenance', previous_status: volume.status });
    });
    await this.#context.engine.begin(operation);
  }

  async setSpeed(id: VolumeId, bytesPerSecond: number): Promise<void> {
    if (!(await wishOfMigration(this.#context.db, id, { bytes_per_second: bytesPerSecond }))) throw noneUnderWay(id);
  }

  async cancel(id: VolumeId): Promise<void> {
    if (!(await wishOfMigration(this.#context.db, id, { status: 'cancelling' }))) throw noneUnderWay(id);
  }

  #begin(tx: Queryable, id: VolumeId, kind: MigrationKind, bytesPerSecond: number | null): Promise<void> {
    return beginMigration(tx, id, {
      kind,
      bytesPerSecond: bytesPerSecond ?? this.#context.volumeCopyBytesPerSecond,
    });
  }
}

function noneUnderWay(id: VolumeId): NightlatchError {
  return badRequest(`Invalid volume: The data of volume ${id} is not being moved.`);
}
