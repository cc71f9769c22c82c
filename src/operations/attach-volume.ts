import { crashPoint } from '#core/crash-point.ts';
import { NightlatchError } from '#core/errors.ts';
import type { AttachmentId, ServerId } from '#core/ids.ts';
import { findServer } from '#db/servers.ts';
import { endAttachment, findAttachment, updateAttachment } from '#db/volume-attachments.ts';
import { guestOf, loadIfPlaced, type OperationContext, type PlacedServer, serverSpec } from '#operations/context.ts';
import { waitForReaders } from '#operations/delete-volume.ts';
import { targetOf } from '#operations/device-names.ts';
import type { Operation } from '#operations/engine.ts';
import {
  finishAsBefore,
  finishVolume,
  needPlacedDisk,
  needVolume,
  type VolumeInput,
} from '#operations/volume-context.ts';
import { tellFailure } from '#operations/volume-steps.ts';

/**
 * Attach volume. From the moment its attachment is written, whatever ends the server's guest locks the volume too, and
 * whatever starts it opens it.
 *
 * | step   | effect                                                     | compensation                    | a repeat |
 * |--------|------------------------------------------------------------|---------------------------------|----------|
 * | wait   | what is being made from it has ended                       | –                               | fine     |
 * | plug   | a guest that runs has it, under a lease                    | unplugged, locked, lease closed, attachment ended | fine |
 * | finish | in-use                                                     | –                               | same     |
 */
export function attachVolume(context: OperationContext): Operation<VolumeInput> {
  return {
    name: 'attach-volume',
    steps: [
      waitForReaders(context),
      { name: 'plug', run: (input) => plug(context, input), undo: (input) => unplug(context, input) },
      { name: 'finish', run: (input) => finishAttached(context, input) },
    ],
    async failed(input, failure) {
      // "attach volume"; "unknown error".
      await tellFailure(context, input, '002_001', failure);
      await finishAsBefore(context, input);
    },
  };
}

/**
 * Detach volume.
 *
 * | step   | effect                                                     | compensation                        | a repeat |
 * |--------|------------------------------------------------------------|-------------------------------------|----------|
 * | unplug | the guest has let it go; locked, lease closed, attachment ended | none: a guest that holds on keeps it, and it stays in-use | fine |
 * | finish | available                                                  | –                                   | same     |
 */
export function detachVolume(context: OperationContext): Operation<VolumeInput> {
  return {
    name: 'detach-volume',
    steps: [
      { name: 'unplug', run: (input) => unplug(context, input) },
      { name: 'finish', run: (input) => finishVolume(context, input, { status: 'available', previous_status: null }) },
    ],
    failed: async (input) => {
      if (await stillAttached(context, input)) await finishAttached(context, input);
      else await finishVolume(context, input, { status: 'available', previous_status: null });
    },
  };
}

function attachmentFrom({ attachment, volumeId }: VolumeInput): { id: AttachmentId; serverId: ServerId } {
  if (!attachment) throw new Error(`an operation on volume ${volumeId} names no attachment`);
  return attachment;
}

async function stillAttached(context: OperationContext, input: VolumeInput): Promise<boolean> {
  return (await findAttachment(context.db, attachmentFrom(input).id)) !== null;
}

/** The server once nothing else is done to it: what begins after this finds the attachment written. */
async function settledServer(context: OperationContext, serverId: ServerId): Promise<PlacedServer | null> {
  for (;;) {
    const server = await findServer(context.db, serverId);
    if (!server?.operation) return await loadIfPlaced(context, serverId);
    await context.engine.settled(server.operation.id);
    const after = await findServer(context.db, serverId);
    if (after?.operation?.id === server.operation.id) return await loadIfPlaced(context, serverId);
  }
}

async function plug(context: OperationContext, input: VolumeInput): Promise<void> {
  const { id, serverId } = attachmentFrom(input);
  const placed = await settledServer(context, serverId);
  const attachment = await findAttachment(context.db, id);
  // A server that left its host is given it when it is unshelved.
  if (!placed && (await findServer(context.db, serverId))?.vm_state === 'shelved_offloaded') return;
  if (!placed || !attachment?.device || placed.server.vm_state === 'deleted') throw gone(serverId);
  if (!(await isRunning(placed))) return;
  const { disk } = await needPlacedDisk(context, input.volumeId);
  const { readonly } = await needVolume(context, input.volumeId);
  const attached = { disk, target: targetOf(attachment.device), readonly: readonly ?? false };
  await context.keys.lend([disk], 'run', input.requestId, (keys) =>
    placed.agent.attachVolume(serverSpec(placed), attached, keys),
  );
  crashPoint('steps.attach-volume.plugged');
}

/** Also of a server that is gone, or whose guest does not run. */
async function unplug(context: OperationContext, input: VolumeInput): Promise<void> {
  const { id, serverId } = attachmentFrom(input);
  const placed = await settledServer(context, serverId);
  const attachment = await findAttachment(context.db, id);
  if (!attachment) return;
  const { disk } = await needPlacedDisk(context, input.volumeId);
  if (placed && attachment.device !== null) {
    await placed.agent.detachVolume(serverId, { disk, target: targetOf(attachment.device) });
  }
  crashPoint('steps.detach-volume.unplugged');
  await context.keys.close([disk], input.requestId);
  await endAttachment(context.db, id);
}

async function finishAttached(context: OperationContext, input: VolumeInput): Promise<void> {
  await context.db.transaction().execute(async (tx) => {
    await updateAttachment(tx, attachmentFrom(input).id, { status: 'attached', attached_at: new Date() });
  });
  await finishVolume(context, input, { status: 'in-use', previous_status: null });
}

async function isRunning(placed: PlacedServer): Promise<boolean> {
  return (await guestOf(placed)) !== null;
}

function gone(serverId: ServerId): NightlatchError {
  return new NightlatchError('conflict', { reason: `Server ${serverId} is gone.` });
}
