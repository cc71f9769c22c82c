import { badRequest, NightlatchError, notFound } from '#core/errors.ts';
import { type AttachmentId, newId, type ServerId, type VolumeId } from '#core/ids.ts';
import { lockServer, type Server } from '#db/servers.ts';
import { snapshotsOf } from '#db/snapshots.ts';
import { type Attachment, attachmentOf, insertAttachment, updateAttachment } from '#db/volume-attachments.ts';
import { claimVolume, type Volume } from '#db/volumes.ts';
import { acceptTransfer } from '#operations/accept-transfer.ts';
import { attachVolume, detachVolume } from '#operations/attach-volume.ts';
import type { OperationContext } from '#operations/context.ts';
import { createVolume } from '#operations/create-volume.ts';
import { beginVolumeDeletion, deleteVolume } from '#operations/delete-volume.ts';
import { freeDevice } from '#operations/device-names.ts';
import { type Operation, pendingOn } from '#operations/engine.ts';
import { extendVolume } from '#operations/extend-volume.ts';
import { planVolume } from '#operations/plan-volume.ts';
import { recordAction } from '#operations/record-action.ts';
import { checkCanBeRekeyed, rekeyVolume } from '#operations/rekey-volume.ts';
import type { Requester } from '#operations/server-operations.ts';
import type { VolumeInput } from '#operations/volume-context.ts';
import type {
  Admit,
  AttachmentRequest,
  SnapshotOperations,
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
  ];
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
  readonly #snapshots: SnapshotOperations;

  constructor(context: OperationContext, snapshots: SnapshotOperations) {
    this.#context = context;
    this.#snapshots = snapshots;
  }

  async create(request: VolumeRequest, requester: Requester, admit: Admit): Promise<Volume> {
    const { volume, operation } = await this.#context.db
      .transaction()
      .execute((tx) => planVolume(tx, request, requester, admit));
    await this.#context.engine.begin(operation);
    return volume;
  }

  async delete(id: VolumeId, requester: Requester, how: { readonly force: boolean; readonly cascade: boolean }) {
    const snapshots = how.cascade ? await snapshotsOf(this.#context.db, id) : [];
    for (const snapshot of snapshots) await this.#snapshots.deleteAndWait(snapshot.id, requester);
    await beginVolumeDeletion(this.#context, id, requester.requestId, how.force ? 'force-delete' : 'delete');
  }

  async extend(id: VolumeId, sizeGib: number, requester: Requester, admit: Admit): Promise<void> {
    const { requestId } = requester;
    const operation = pendingOn<VolumeInput>('extend-volume', { volumeId: id, requestId, sizeGib });
    await claimVolume(this.#context.db, id, 'extend', operation, async (tx, volume) => {
      if (sizeGib <= volume.size_gib) {
        throw badRequest(
          `Invalid input received: New size for extend must be greater than current size. (current: ${volume.size_gib}, extended: ${sizeGib}).`,
        );
      }
      await admit(tx);
      const attachment = await attachmentOf(tx, id);
      if (attachment?.server_id) await recordAction(tx, 'extend_volume', attachment.server_id, operation, requester);
    });
    await this.#context.engine.begin(operation);
  }

  async attach(id: VolumeId, request: AttachmentRequest, requester: Requester): Promise<Attachment> {
    const { requestId, projectId } = requester;
    const attachment = { id: newId<AttachmentId>(), serverId: request.serverId };
    const operation = pendingOn<VolumeInput>('attach-volume', { volumeId: id, requestId, attachment });
    let written: Attachment | null = null;
    await claimVolume(this.#context.db, id, 'attach', operation, async (tx, volume) => {
      const server = await lockServer(tx, request.serverId);
      checkAttachable(server, volume, projectId);
      const device = await freeDevice(tx, server.id, request.device);
      const reserved = await attachmentOf(tx, id);
      checkReservation(volume, reserved, server);
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
      await recordAction(tx, 'attach_volume', server.id, operation, requester);
    });
    await this.#context.engine.begin(operation);
    if (!written) throw new Error('an attachment was claimed and not written');
    return written;
  }

  async detach(id: VolumeId, serverId: ServerId, requester: Requester): Promise<void> {
    const attachment = await attachmentOf(this.#context.db, id);
    if (!attachment || attachment.server_id !== serverId) throw notFound('volume_id', id);
    const { requestId } = requester;
    const input = { volumeId: id, requestId, attachment: { id: attachment.id, serverId } };
    const operation = pendingOn<VolumeInput>('detach-volume', input);
    await claimVolume(this.#context.db, id, 'detach', operation, async (tx) => {
      const server = await lockServer(tx, serverId);
      checkServerState(server, 'detach_volume');
      await updateAttachment(tx, attachment.id, { status: 'detaching' });
      await recordAction(tx, 'detach_volume', serverId, operation, requester);
    });
    await this.#context.engine.begin(operation);
  }

  async rekey(id: VolumeId, { requestId }: Requester): Promise<void> {
    const operation = pendingOn<VolumeInput>('rekey-volume', { volumeId: id, requestId });
    await claimVolume(this.#context.db, id, 'rekey', operation, async (tx, volume) => {
      if (volume.encryption === null) throw badRequest(`Invalid volume: Volume ${id} is not encrypted.`);
      await checkCanBeRekeyed(tx, id);
    });
    await this.#context.engine.begin(operation);
  }
}

function checkAttachable(server: Server, volume: Volume, projectId: string): void {
  checkServerState(server, 'attach_volume');
  if (volume.project_id !== server.project_id && volume.project_id !== projectId) throw notFound('Volume', volume.id);
  if (server.host !== null && volume.host !== null && server.host !== volume.host) {
    const details = { volume: volume.id, host: volume.host, server: server.id, other: server.host };
    throw new NightlatchError('volume-elsewhere', details);
  }
}

/** @throws bad-request for a volume that a client reserved for another server. */
function checkReservation({ id }: Volume, reserved: Attachment | null, server: Server): void {
  const wanted = reserved?.connector?.instance ?? server.id;
  if (wanted === server.id) return;
  throw badRequest(`Invalid volume: Volume ${id} is reserved for server ${wanted}, by attachment ${reserved?.id}.`);
}

/** @throws server-state (409) with Nova's words. */
function checkServerState({ id, vm_state: state, task_state: task }: Server, action: string): void {
  if (!ATTACHABLE.includes(state))
    throw new NightlatchError('server-state', { action, id, attribute: 'vm_state', state });
  if (task !== null) throw new NightlatchError('server-state', { action, id, attribute: 'task_state', state: task });
}
