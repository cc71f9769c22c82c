import type { DiskOwnerId } from '#core/disk.ts';
import type { VolumeStatus } from '#core/volume.ts';
import { updateDisk } from '#db/disks.ts';
import { releaseSnapshot, snapshotReaders, snapshotsOf, updateSnapshot } from '#db/snapshots.ts';
import { endTransfer } from '#db/volume-transfers.ts';
import { readersOf, updateVolume } from '#db/volumes.ts';
import type { OperationContext } from '#operations/context.ts';
import type { Operation, Step } from '#operations/engine.ts';
import { adoptKey, changeKey, prepareRekey, restoreOldKey } from '#operations/rekey-disk.ts';
import { finishVolume, needPlacedDisk, type VolumeInput } from '#operations/volume-context.ts';
import { settleThoseBefore } from '#operations/volume-steps.ts';

/**
 * Accept transfer: a volume, with its snapshots, becomes another project's. Every disk gets a key of that project, and
 * the giver's keys open nothing afterwards.
 *
 * | step    | effect                                                  | compensation                              | a repeat |
 * |---------|---------------------------------------------------------|-------------------------------------------|----------|
 * | wait    | what is being made from the volume and its snapshots has ended | –                                  | fine     |
 * | prepare | the recipient's secrets are stored, the rows name both  | the giver's alone open them, the new ones are destroyed | keeps them |
 * | change  | only the recipient's secrets open the disks             | as above                                  | fine     |
 * | adopt   | volume, snapshots, disks and secrets are the recipient's; the giver's secrets destroyed | none      | fine     |
 * | finish  | available                                               | –                                         | same     |
 */
export function acceptTransfer(context: OperationContext): Operation<VolumeInput> {
  const forEach = (run: (owner: DiskOwnerId, input: VolumeInput) => Promise<void>) => async (input: VolumeInput) => {
    for (const owner of await ownersOf(context, input)) await run(owner, input);
  };
  const undo = forEach((owner, input) => restoreOldKey(context, rekeyOf(owner, input), false));
  const change: Step<VolumeInput> = {
    name: 'change',
    run: forEach((owner, input) => changeKey(context, rekeyOf(owner, input))),
    undo,
  };
  return {
    name: 'accept-transfer',
    steps: [
      { name: 'wait', run: (input) => waitForAllReaders(context, input) },
      { name: 'prepare', run: forEach((owner, input) => prepareRekey(context, rekeyOf(owner, input))), undo },
      change,
      {
        name: 'adopt',
        async run(input) {
          await handOver(context, input);
          for (const owner of await ownersOf(context, input)) await adoptKey(context, rekeyOf(owner, input), false);
        },
      },
      { name: 'finish', run: (input) => finish(context, input) },
    ],
    failed: (input) => release(context, input, 'awaiting-transfer'),
  };
}

function recipientOf({ volumeId, recipient }: VolumeInput) {
  if (!recipient) throw new Error(`the acceptance of volume ${volumeId} names nobody`);
  return recipient;
}

function rekeyOf(owner: DiskOwnerId, input: VolumeInput) {
  return { owner, projectId: recipientOf(input).projectId, requestId: input.requestId };
}

/** The volume and its snapshots. */
async function ownersOf({ db }: OperationContext, { volumeId }: VolumeInput): Promise<DiskOwnerId[]> {
  return [volumeId, ...(await snapshotsOf(db, volumeId)).map(({ id }) => id)];
}

/** In one transaction: nobody has a part of it. The rows still name both secrets; a lease is opened for either no more. */
async function handOver(context: OperationContext, input: VolumeInput): Promise<void> {
  const { projectId, userId } = recipientOf(input);
  const owners = await ownersOf(context, input);
  const disks = await Promise.all(owners.map(async (owner) => (await needPlacedDisk(context, owner)).disk));
  await context.db.transaction().execute(async (tx) => {
    await updateVolume(tx, input.volumeId, { project_id: projectId, user_id: userId });
    for (const { id } of await snapshotsOf(tx, input.volumeId)) {
      await updateSnapshot(tx, id, { project_id: projectId, user_id: userId });
    }
    for (const { id } of disks) await updateDisk(tx, id, { project_id: projectId });
  });
}

async function finish(context: OperationContext, input: VolumeInput): Promise<void> {
  await endTransfer(context.db, input.volumeId, recipientOf(input).projectId);
  await release(context, input, 'available');
}

/** The volume and its snapshots, which nobody else has had in hand meanwhile. */
async function release(context: OperationContext, input: VolumeInput, status: VolumeStatus): Promise<void> {
  for (const { id } of await snapshotsOf(context.db, input.volumeId)) {
    await releaseSnapshot(context.db, id, input.operationId, {});
  }
  await finishVolume(context, input, { status, previous_status: null });
}

async function waitForAllReaders(context: OperationContext, { volumeId }: VolumeInput): Promise<void> {
  await settleThoseBefore(context, await readersOf(context.db, volumeId));
  for (const { id } of await snapshotsOf(context.db, volumeId)) {
    await settleThoseBefore(context, await snapshotReaders(context.db, id));
  }
}
