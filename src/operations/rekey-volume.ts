import { badRequest } from '#core/errors.ts';
import type { ProjectId, VolumeId } from '#core/ids.ts';
import type { Queryable } from '#db/database.ts';
import { disksOf } from '#db/disks.ts';
import { findServer } from '#db/servers.ts';
import { attachmentOf } from '#db/volume-attachments.ts';
import type { OperationContext } from '#operations/context.ts';
import { waitForReaders } from '#operations/delete-volume.ts';
import type { Operation } from '#operations/engine.ts';
import { adoptKey, changeKey, prepareRekey, type Rekey, restoreOldKey } from '#operations/rekey-disk.ts';
import { finishAsBefore, needVolume, type VolumeInput } from '#operations/volume-context.ts';
import { unlessOpen } from '#operations/volume-steps.ts';

/**
 * Rekey volume: another passphrase, without interrupting a guest that has it. The volume key stays.
 *
 * | step    | effect                                                 | compensation                    | a repeat |
 * |---------|--------------------------------------------------------|---------------------------------|----------|
 * | wait    | what is being made from it, and what is done to its server, has ended | –                | fine     |
 * | prepare | the next secret is stored, the row names both          | the old one alone opens it, the next is destroyed | keeps it |
 * | change  | only the next secret opens it                          | as above                        | fine     |
 * | adopt   | the row names the new secret, the old one is destroyed | none: the point of no return    | fine     |
 * | finish  | the status it had                                      | –                               | same     |
 */
export function rekeyVolume(context: OperationContext): Operation<VolumeInput> {
  const withRekey = (work: (rekey: Rekey, isOpen: boolean) => Promise<void>) => (input: VolumeInput) =>
    unlessOpen(context, input.volumeId, async (guest) => work(await rekeyOf(context, input), guest !== null));
  const undo = withRekey((rekey, isOpen) => restoreOldKey(context, rekey, isOpen));
  return {
    name: 'rekey-volume',
    steps: [
      waitForReaders(context),
      { name: 'wait-for-server', run: (input) => waitForServer(context, input) },
      { name: 'prepare', run: async (input) => prepareRekey(context, await rekeyOf(context, input)), undo },
      { name: 'change', run: withRekey((rekey) => changeKey(context, rekey)), undo },
      { name: 'adopt', run: withRekey((rekey, isOpen) => adoptKey(context, rekey, isOpen)) },
      { name: 'finish', run: (input) => finishAsBefore(context, input) },
    ],
    failed: (input) => finishAsBefore(context, input),
  };
}

async function rekeyOf(context: OperationContext, { volumeId, requestId }: VolumeInput): Promise<Rekey> {
  const { project_id } = await needVolume(context, volumeId);
  return { owner: volumeId, projectId: project_id as ProjectId, requestId };
}

/** What starts its guest after this waits for the rekey. */
async function waitForServer(context: OperationContext, { volumeId }: VolumeInput): Promise<void> {
  const attachment = await attachmentOf(context.db, volumeId);
  const server = attachment?.server_id ? await findServer(context.db, attachment.server_id) : null;
  if (server?.operation) await context.engine.settled(server.operation.id);
}

/** @throws bad-request for a volume whose format has no header to change. */
export async function checkCanBeRekeyed(tx: Queryable, id: VolumeId): Promise<void> {
  const disks = await disksOf(tx, id);
  if (disks.every(({ encryption }) => encryption !== 'plain')) return;
  throw badRequest(
    `Invalid volume: Volume ${id} has format plain, whose key cannot be changed. Retype it to an encrypted type with a header first.`,
  );
}
