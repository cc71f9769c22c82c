import { badRequest, notFound } from '#core/errors.ts';
import { newId, type TransferId, type VolumeId } from '#core/ids.ts';
import { isTransferKey, makeTransferKey } from '#core/transfer-key.ts';
import { checkVolumeAction } from '#core/volume.ts';
import type { Queryable } from '#db/database.ts';
import { beginOnSnapshot, lockSnapshot, type Snapshot, snapshotsOf } from '#db/snapshots.ts';
import { endTransfer, findTransfer, insertTransfer, type Transfer } from '#db/volume-transfers.ts';
import { claimVolume, lockVolume, updateVolume } from '#db/volumes.ts';
import type { OperationContext } from '#operations/context.ts';
import { pendingOn } from '#operations/engine.ts';
import { checkCanBeRekeyed } from '#operations/rekey-volume.ts';
import type { Requester } from '#operations/server-operations.ts';
import type { VolumeInput } from '#operations/volume-context.ts';
import type { Admit, TransferOperations, TransferRequest } from '#operations/volume-operations.ts';

/** Offers volumes to other projects, and sets their acceptance going on the durable engine. */
export class DurableTransferOperations implements TransferOperations {
  readonly #context: OperationContext;

  constructor(context: OperationContext) {
    this.#context = context;
  }

  async offer(id: VolumeId, { name, noSnapshots }: TransferRequest) {
    const key = await makeTransferKey();
    const transfer = await this.#context.db.transaction().execute(async (tx) => {
      const volume = await lockVolume(tx, id);
      checkVolumeAction('offer', { id, status: volume.status, isBusy: volume.operation !== null });
      await checkCanBeRekeyed(tx, id);
      const snapshots = await freeSnapshotsOf(tx, id);
      if (noSnapshots && snapshots.length > 0) {
        throw badRequest(
          `Invalid volume: Volume ${id} has snapshots, which go with it. Offer it with its snapshots, or delete them.`,
        );
      }
      await updateVolume(tx, id, { status: 'awaiting-transfer' });
      return await insertTransfer(tx, {
        id: newId<TransferId>(),
        volume_id: id,
        name,
        salt: key.salt,
        auth_hash: key.authHash,
        no_snapshots: noSnapshots,
        source_project_id: volume.project_id,
        destination_project_id: null,
      });
    });
    return { transfer, authKey: key.authKey };
  }

  async withdraw({ volume_id: id }: Transfer): Promise<void> {
    await this.#context.db.transaction().execute(async (tx) => {
      const volume = await lockVolume(tx, id);
      checkVolumeAction('withdraw', { id, status: volume.status, isBusy: volume.operation !== null });
      await endTransfer(tx, id, null);
      await updateVolume(tx, id, { status: 'available' });
    });
  }

  async accept(transfer: Transfer, authKey: string, requester: Requester, admit: Admit): Promise<void> {
    if (!(await isTransferKey(authKey, { salt: transfer.salt, authHash: transfer.auth_hash }))) {
      throw badRequest(`Attempt to transfer ${transfer.id} with invalid auth key.`);
    }
    const { requestId, projectId, userId } = requester;
    const { volume_id: volumeId } = transfer;
    const operation = pendingOn<VolumeInput>('accept-transfer', {
      volumeId,
      requestId,
      recipient: { projectId, userId },
    });
    await claimVolume(this.#context.db, volumeId, 'accept', operation, async (tx) => {
      // Withdrawn, and offered anew, since it was read.
      if ((await findTransfer(tx, transfer.id)) === null) throw notFound('Transfer', transfer.id);
      for (const { id } of await freeSnapshotsOf(tx, volumeId)) await beginOnSnapshot(tx, id, operation);
      await admit(tx);
    });
    await this.#context.engine.begin(operation);
    await this.#context.engine.settled(operation.id);
  }
}

/** A volume's snapshots, locked. @throws bad-request when one is not available or something is done to it. */
async function freeSnapshotsOf(tx: Queryable, id: VolumeId): Promise<Snapshot[]> {
  const snapshots = [];
  for (const { id: snapshotId } of await snapshotsOf(tx, id)) {
    const snapshot = await lockSnapshot(tx, snapshotId);
    if (snapshot.status !== 'available' || snapshot.operation !== null)
      throw badRequest(`Invalid snapshot: Snapshot ${snapshotId} of volume ${id} is not available.`);
    snapshots.push(snapshot);
  }
  return snapshots;
}
