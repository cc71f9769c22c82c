import { newId, type SnapshotId, type VolumeId } from '#core/ids.ts';
import { snapshotStatuses } from '#core/volume.ts';
import { disksOf, insertDisks } from '#db/disks.ts';
import { claimSnapshotForDeletion, insertSnapshot, type Snapshot } from '#db/snapshots.ts';
import type { PendingOperation } from '#db/tables/columns.ts';
import { lockVolume } from '#db/volumes.ts';
import type { OperationContext } from '#operations/context.ts';
import { createSnapshot, deleteSnapshot } from '#operations/create-snapshot.ts';
import { type Operation, pendingOn } from '#operations/engine.ts';
import { checkCanBeRead, diskBeside } from '#operations/plan-volume.ts';
import type { Requester } from '#operations/server-operations.ts';
import type { SnapshotInput } from '#operations/volume-context.ts';
import type { Admit, SnapshotOperations, SnapshotRequest } from '#operations/volume-operations.ts';

/** Every operation on snapshots. */
export function snapshotOperations(context: OperationContext): Operation<SnapshotInput>[] {
  return [createSnapshot(context), deleteSnapshot(context)];
}

/** Sets operations on snapshots going on the durable engine. */
export class DurableSnapshotOperations implements SnapshotOperations {
  readonly #context: OperationContext;

  constructor(context: OperationContext) {
    this.#context = context;
  }

  async create(id: VolumeId, request: SnapshotRequest, requester: Requester, admit: Admit): Promise<Snapshot> {
    const snapshotId = newId<SnapshotId>();
    const operation = pendingOn<SnapshotInput>('create-snapshot', {
      snapshotId,
      volumeId: id,
      requestId: requester.requestId,
    });
    const snapshot = await this.#context.db.transaction().execute(async (tx) => {
      const volume = await lockVolume(tx, id);
      checkCanBeRead(volume, request.force);
      await admit(tx);
      const [disk] = await disksOf(tx, id);
      if (!disk) throw new Error(`volume ${id} has no disk`);
      const inserted = await insertSnapshot(tx, {
        id: snapshotId,
        volume_id: id,
        project_id: volume.project_id,
        user_id: requester.userId,
        name: request.name,
        description: request.description,
        size_gib: volume.size_gib,
        status: 'creating',
        metadata: JSON.stringify(request.metadata),
        operation: JSON.stringify(operation),
        updated_at: new Date(),
      });
      const own = { owner_id: snapshotId, role: 'volume-snapshot', project_id: volume.project_id } as const;
      await insertDisks(tx, [diskBeside(disk, own)]);
      return inserted;
    });
    await this.#context.engine.begin(operation);
    return snapshot;
  }

  async delete(id: SnapshotId, { requestId }: Requester, { force }: { readonly force: boolean }): Promise<void> {
    await this.#beginDeletion(id, requestId, force);
  }

  async deleteAndWait(id: SnapshotId, { requestId }: Requester): Promise<void> {
    const { id: operationId } = await this.#beginDeletion(id, requestId, false);
    await this.#context.engine.settled(operationId);
  }

  async #beginDeletion(id: SnapshotId, requestId: string, force: boolean): Promise<PendingOperation> {
    const { db } = this.#context;
    const { volume_id: volumeId } = await db
      .selectFrom('snapshots')
      .select('volume_id')
      .where('id', '=', id)
      .executeTakeFirstOrThrow();
    const operation = pendingOn<SnapshotInput>('delete-snapshot', { snapshotId: id, volumeId, requestId });
    // One that is backed up or that its volume is reverted to is read now.
    const any = snapshotStatuses.filter((status) => status !== 'restoring' && status !== 'backing-up');
    const from = force ? any : (['available', 'error'] as const);
    await claimSnapshotForDeletion(db, id, from, operation);
    await this.#context.engine.begin(operation);
    return operation;
  }
}
