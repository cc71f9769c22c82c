import { crashPoint } from '#core/crash-point.ts';
import { badRequest, NightlatchError, notFound } from '#core/errors.ts';
import {
  type AttachmentId,
  type BackupId,
  type DiskId,
  newId,
  type ServerId,
  type SnapshotId,
  type TransferId,
  type VolumeId,
} from '#core/ids.ts';
import { isTransferKey, makeTransferKey } from '#core/transfer-key.ts';
import { backupStatuses, checkVolumeAction, snapshotStatuses } from '#core/volume.ts';
import {
  type Backup,
  claimBackup,
  countDependents,
  findBackup,
  insertBackup,
  isBeingRestored,
  latestBackup,
} from '#db/backups.ts';
import type { Queryable } from '#db/database.ts';
import { type DiskRow, disksOf, insertDisks, type NewDisk } from '#db/disks.ts';
import type { PendingOperation } from '#db/schema.ts';
import { lockServer, type Server } from '#db/servers.ts';
import { claimSnapshotForDeletion, insertSnapshot, type Snapshot, snapshotsOf } from '#db/snapshots.ts';
import { type Attachment, attachmentOf, insertAttachment, updateAttachment } from '#db/volume-attachments.ts';
import { endTransfer, findTransfer, insertTransfer, type Transfer } from '#db/volume-transfers.ts';
import type { VolumeType } from '#db/volume-types.ts';
import { claimVolume, findVolume, lockVolume, updateVolume, type Volume } from '#db/volumes.ts';
import { acceptTransfer } from '#operations/accept-transfer.ts';
import { attachVolume, detachVolume } from '#operations/attach-volume.ts';
import type { OperationContext } from '#operations/context.ts';
import { createBackup, deleteBackup } from '#operations/create-backup.ts';
import { createSnapshot, deleteSnapshot } from '#operations/create-snapshot.ts';
import { createVolume } from '#operations/create-volume.ts';
import { beginVolumeDeletion, deleteVolume } from '#operations/delete-volume.ts';
import { freeDevice } from '#operations/device-names.ts';
import type { Engine, Operation } from '#operations/engine.ts';
import { extendVolume } from '#operations/extend-volume.ts';
import { checkCanBeRead, pendingOn, planVolume } from '#operations/plan-volume.ts';
import { rekeyVolume } from '#operations/rekey-volume.ts';
import { restoreBackup } from '#operations/restore-backup.ts';
import { neededChange, retypeVolume } from '#operations/retype-volume.ts';
import type { Requester } from '#operations/server-operations.ts';
import type { BackupInput, SnapshotInput, VolumeInput } from '#operations/volume-context.ts';
import type {
  Admit,
  AttachmentRequest,
  BackupRequest,
  SnapshotRequest,
  TransferRequest,
  VolumeOperations,
  VolumeRequest,
} from '#operations/volume-operations.ts';

/** Every operation on volumes, for the engine to know before it launches. */
export function volumeOperations(context: OperationContext): Operation<VolumeInput>[] {
  return [
    createVolume(context),
    deleteVolume(context),
    extendVolume(context),
    attachVolume(context),
    detachVolume(context),
    acceptTransfer(context),
    rekeyVolume(context),
    retypeVolume(context),
  ];
}

/** Every operation on backups. */
export function backupOperations(context: OperationContext): Operation<BackupInput>[] {
  return [createBackup(context), restoreBackup(context), deleteBackup(context)];
}

/** Every operation on snapshots. */
export function snapshotOperations(context: OperationContext): Operation<SnapshotInput>[] {
  return [createSnapshot(context), deleteSnapshot(context)];
}

/** States of a server in which Nova attaches and detaches volumes. */
const ATTACHABLE: readonly Server['vm_state'][] = [
  'active',
  'paused',
  'stopped',
  'resized',
  'shelved',
  'shelved_offloaded',
];

/** Sets operations on volumes going on the durable engine, as `DurableServerOperations` does. */
export class DurableVolumeOperations implements VolumeOperations {
  readonly #context: OperationContext;
  readonly #engine: Engine;

  constructor(context: OperationContext, engine: Engine) {
    this.#context = context;
    this.#engine = engine;
  }

  async create(request: VolumeRequest, requester: Requester, admit: Admit): Promise<Volume> {
    const { volume, operation } = await this.#context.db.transaction().execute(async (tx) => {
      await admit(tx);
      return await planVolume(tx, request, requester);
    });
    await this.#begin(operation);
    return volume;
  }

  async delete(id: VolumeId, requester: Requester, how: { readonly force: boolean; readonly cascade: boolean }) {
    const snapshots = how.cascade ? await snapshotsOf(this.#context.db, id) : [];
    for (const snapshot of snapshots) await this.#deleteSnapshotAndWait(snapshot, requester);
    await beginVolumeDeletion(this.#context, id, requester.requestId, how.force ? 'force-delete' : 'delete');
  }

  async extend(id: VolumeId, sizeGib: number, { requestId }: Requester, admit: Admit): Promise<void> {
    const operation = pendingOn<VolumeInput>('extend-volume', { volumeId: id, requestId, sizeGib });
    await claimVolume(this.#context.db, id, 'extend', operation, async (tx, volume) => {
      if (sizeGib <= volume.size_gib) {
        throw badRequest(
          `Invalid input received: New size for extend must be greater than current size. (current: ${volume.size_gib}, extended: ${sizeGib}).`,
        );
      }
      await admit(tx);
    });
    await this.#begin(operation);
  }

  async createSnapshot(id: VolumeId, request: SnapshotRequest, requester: Requester, admit: Admit): Promise<Snapshot> {
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
    await this.#begin(operation);
    return snapshot;
  }

  async deleteSnapshot(
    id: SnapshotId,
    { requestId }: Requester,
    { force }: { readonly force: boolean },
  ): Promise<void> {
    await this.#beginSnapshotDeletion(id, requestId, force);
  }

  async attach(id: VolumeId, request: AttachmentRequest, { requestId, projectId }: Requester): Promise<Attachment> {
    const attachment = { id: newId<AttachmentId>(), serverId: request.serverId };
    const operation = pendingOn<VolumeInput>('attach-volume', { volumeId: id, requestId, attachment });
    let written: Attachment | null = null;
    await claimVolume(this.#context.db, id, 'attach', operation, async (tx, volume) => {
      const server = await lockServer(tx, request.serverId);
      checkAttachable(server, volume, projectId);
      const device = await freeDevice(tx, server.id, request.device);
      const reserved = await attachmentOf(tx, id);
      if (reserved) await updateAttachment(tx, reserved.id, { status: 'detached', detached_at: new Date() });
      written = await insertAttachment(tx, {
        id: attachment.id,
        volume_id: id,
        server_id: request.serverId,
        status: 'attaching',
        device,
        delete_on_termination: request.deleteOnTermination,
        boot_index: null,
      });
    });
    await this.#begin(operation);
    if (!written) throw new Error('an attachment was claimed and not written');
    return written;
  }

  async detach(id: VolumeId, serverId: ServerId, { requestId }: Requester): Promise<void> {
    const attachment = await attachmentOf(this.#context.db, id);
    if (!attachment || attachment.server_id !== serverId) throw notFound('volume_id', id);
    const input = { volumeId: id, requestId, attachment: { id: attachment.id, serverId } };
    const operation = pendingOn<VolumeInput>('detach-volume', input);
    await claimVolume(this.#context.db, id, 'detach', operation, async (tx) => {
      const server = await lockServer(tx, serverId);
      checkServerState(server, 'detach_volume');
      await updateAttachment(tx, attachment.id, { status: 'detaching' });
    });
    await this.#begin(operation);
  }

  async offer(id: VolumeId, { name, noSnapshots }: TransferRequest) {
    const key = await makeTransferKey();
    const transfer = await this.#context.db.transaction().execute(async (tx) => {
      const volume = await lockVolume(tx, id);
      checkVolumeAction('offer', { id, status: volume.status, isBusy: volume.operation !== null });
      await checkCanBeRekeyed(tx, id);
      const snapshots = await snapshotsOf(tx, id);
      const unready = snapshots.find(({ status, operation }) => status !== 'available' || operation !== null);
      if (unready || (noSnapshots && snapshots.length > 0)) throw snapshotsInTheWay(id, unready?.id ?? null);
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
      await admit(tx);
    });
    await this.#begin(operation);
    await this.#engine.settled(operation.id);
  }

  async createBackup(id: VolumeId, request: BackupRequest, requester: Requester, admit: Admit): Promise<Backup> {
    const backupId = newId<BackupId>();
    const { requestId, projectId, userId } = requester;
    const operation = pendingOn<BackupInput>('create-backup', { backupId, volumeId: id, requestId });
    let made: Backup | null = null;
    await claimVolume(this.#context.db, id, 'back-up', operation, async (tx, volume) => {
      checkCanBeRead(volume, request.force || request.snapshotId !== null);
      await admit(tx);
      const parent = request.incremental ? await latestBackup(tx, id, projectId) : null;
      if (request.incremental && !parent) {
        throw badRequest('Invalid backup: No backups available to do an incremental backup.');
      }
      const [like] = await disksOf(tx, request.snapshotId ?? id);
      if (!like) throw new Error(`volume ${id} has no disk`);
      made = await insertBackup(tx, {
        id: backupId,
        volume_id: id,
        snapshot_id: request.snapshotId,
        parent_id: parent?.id ?? null,
        project_id: projectId,
        user_id: userId,
        name: request.name,
        description: request.description,
        metadata: JSON.stringify(request.metadata),
        container: request.container,
        size_gib: volume.size_gib,
        status: 'creating',
        fail_reason: null,
        volume_type_id: volume.volume_type_id,
        availability_zone: volume.availability_zone,
        secret_id: null,
        restored_volume_id: null,
        operation: JSON.stringify(operation),
        updated_at: new Date(),
      });
      await insertDisks(tx, [diskBeside(like, { owner_id: backupId, role: 'backup', project_id: projectId })]);
    });
    await this.#begin(operation);
    if (!made) throw new Error('a backup was claimed and not written');
    return made;
  }

  async restoreBackup(id: BackupId, volumeId: VolumeId, { requestId }: Requester): Promise<void> {
    const operation = pendingOn<BackupInput>('restore-backup', { backupId: id, volumeId, requestId });
    const creation = (await findVolume(this.#context.db, volumeId))?.operation;
    if (creation?.name === 'create-volume') await this.#engine.settled(creation.id);
    await claimVolume(this.#context.db, volumeId, 'restore', operation, async (tx, volume) => {
      const claim = { action: 'restore', from: ['available'], during: 'restoring' } as const;
      const backup = await claimBackup(tx, id, claim, operation);
      if (volume.size_gib < backup.size_gib) {
        throw badRequest(
          `Invalid volume: volume size ${volume.size_gib} is too small to restore backup of size ${backup.size_gib}.`,
        );
      }
    });
    await this.#begin(operation);
  }

  async deleteBackup(id: BackupId, { requestId }: Requester, { force }: { readonly force: boolean }): Promise<void> {
    const backup = await findBackup(this.#context.db, id);
    if (!backup) throw notFound('Backup', id);
    const operation = pendingOn<BackupInput>('delete-backup', { backupId: id, volumeId: backup.volume_id, requestId });
    const from = force ? backupStatuses : (['available', 'error'] as const);
    await this.#context.db.transaction().execute(async (tx) => {
      await claimBackup(tx, id, { action: 'delete', from, during: 'deleting' }, operation);
      if ((await countDependents(tx, id)) > 0) {
        throw badRequest('Invalid backup: Incremental backups exist for this backup.');
      }
      if (await isBeingRestored(tx, id)) throw badRequest('Invalid backup: A volume is being made from this backup.');
    });
    await this.#begin(operation);
  }

  async retype(id: VolumeId, type: VolumeType, mayMove: boolean, { requestId }: Requester): Promise<void> {
    const operation = pendingOn<VolumeInput>('retype-volume', { volumeId: id, requestId, retype: { typeId: type.id } });
    await claimVolume(this.#context.db, id, 'retype', operation, async (tx, volume) => {
      const refuse = (why: string) => badRequest(`Invalid volume: Retyping volume ${id} failed: ${why}.`);
      if (volume.volume_type_id === type.id) throw refuse('it is of that type');
      if (volume.status === 'in-use') {
        const change = await neededChange(tx, volume, type);
        if (change !== null)
          throw refuse('its data would have to move, and a volume that is in use is not moved. Detach it first');
      } else if ((await neededChange(tx, volume, type)) !== null) {
        if (!mayMove) throw refuse('its data would have to move. Use migration policy on-demand');
        if ((await snapshotsOf(tx, id)).length > 0) throw refuse('its data would have to move, and it has snapshots');
      }
    });
    await this.#begin(operation);
  }

  async rekey(id: VolumeId, { requestId }: Requester): Promise<void> {
    const operation = pendingOn<VolumeInput>('rekey-volume', { volumeId: id, requestId });
    await claimVolume(this.#context.db, id, 'rekey', operation, async (tx, volume) => {
      if (volume.encryption === null) throw badRequest(`Invalid volume: Volume ${id} is not encrypted.`);
      await checkCanBeRekeyed(tx, id);
    });
    await this.#begin(operation);
  }

  async #begin(operation: PendingOperation): Promise<void> {
    crashPoint('operations.recorded');
    await this.#engine.start(operation.name, operation.id, operation.input);
  }

  async #beginSnapshotDeletion(id: SnapshotId, requestId: string, force: boolean): Promise<PendingOperation> {
    const { db } = this.#context;
    const { volume_id: volumeId } = await db
      .selectFrom('snapshots')
      .select('volume_id')
      .where('id', '=', id)
      .executeTakeFirstOrThrow();
    const operation = pendingOn<SnapshotInput>('delete-snapshot', { snapshotId: id, volumeId, requestId });
    const from = force ? snapshotStatuses : (['available', 'error'] as const);
    await claimSnapshotForDeletion(db, id, from, operation);
    await this.#begin(operation);
    return operation;
  }

  async #deleteSnapshotAndWait({ id }: Snapshot, { requestId }: Requester): Promise<void> {
    const { id: operationId } = await this.#beginSnapshotDeletion(id, requestId, false);
    await this.#engine.settled(operationId);
  }
}

/** The row of a disk that is to hold what another holds, in the same place. */
function diskBeside(
  { created_at: _, ...like }: DiskRow,
  own: Pick<NewDisk, 'owner_id' | 'role' | 'project_id'>,
): NewDisk {
  const fresh = {
    id: newId<DiskId>(),
    generation: 0,
    state: 'absent',
    secret_id: null,
    other_secret_id: null,
  } as const;
  return { ...like, ...own, ...fresh };
}

function checkAttachable(server: Server, volume: Volume, projectId: string): void {
  checkServerState(server, 'attach_volume');
  if (volume.project_id !== server.project_id && volume.project_id !== projectId) throw notFound('Volume', volume.id);
  if (server.host !== null && volume.host !== null && server.host !== volume.host) {
    const details = { volume: volume.id, host: volume.host, server: server.id, other: server.host };
    throw new NightlatchError('volume-elsewhere', details);
  }
}

/** @throws server-state (409) with Nova's words. */
function checkServerState({ id, vm_state: state, task_state: task }: Server, action: string): void {
  if (!ATTACHABLE.includes(state))
    throw new NightlatchError('server-state', { action, id, attribute: 'vm_state', state });
  if (task !== null) throw new NightlatchError('server-state', { action, id, attribute: 'task_state', state: task });
}

/** @throws bad-request for a volume whose format has no header to change. */
async function checkCanBeRekeyed(tx: Queryable, id: VolumeId): Promise<void> {
  const disks = await disksOf(tx, id);
  if (disks.every(({ encryption }) => encryption !== 'plain')) return;
  throw badRequest(
    `Invalid volume: Volume ${id} has format plain, whose key cannot be changed. Retype it to an encrypted type with a header first.`,
  );
}

function snapshotsInTheWay(id: VolumeId, unready: SnapshotId | null): Error {
  return badRequest(
    unready === null
      ? `Invalid volume: Volume ${id} has snapshots, which go with it. Offer it with its snapshots, or delete them.`
      : `Invalid snapshot: Snapshot ${unready} of volume ${id} is not available.`,
  );
}
