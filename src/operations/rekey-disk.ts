import { crashPoint } from '#core/crash-point.ts';
import type { DiskOwnerId } from '#core/disk.ts';
import type { ProjectId } from '#core/ids.ts';
import { updateDisk } from '#db/disks.ts';
import type { OperationContext } from '#operations/context.ts';
import { needPlacedDisk } from '#operations/volume-context.ts';

/*
 * Another key for a disk, part by part, for the steps of operations. At every instant a secret that the disk's row names
 * opens it:
 *
 * | part    | effect                                                     | taken back by      |
 * |---------|------------------------------------------------------------|--------------------|
 * | prepare | the next secret is stored, `rekeying`, the row names both  | `restoreOldKey`    |
 * | change  | the new header is kept, only the next secret opens the disk | `restoreOldKey`   |
 * | adopt   | the row names the next secret as the disk's own, `formatted`; the old one is destroyed, after the header backups it opens | nothing |
 */

/** Whose a disk is, which disk, and who asked. `projectId`: whose the new key is to be. */
export type Rekey = { readonly owner: DiskOwnerId; readonly projectId: ProjectId; readonly requestId: string };

/** *Repeat*: fine. */
export async function prepareRekey(context: OperationContext, { owner, projectId, requestId }: Rekey): Promise<void> {
  const { disk } = await needPlacedDisk(context, owner);
  await context.keys.createNextKey(disk, projectId, requestId);
}

/** *Repeat*: fine. A disk that is not encrypted stays as it is. */
export async function changeKey(context: OperationContext, { owner, projectId, requestId }: Rekey): Promise<void> {
  const { disk, agent } = await needPlacedDisk(context, owner);
  const { otherSecretId: nextId } = disk;
  if (disk.state !== 'rekeying' || nextId === null) return;
  await context.keys.lendBoth(disk, projectId, requestId, ({ old, next }) =>
    agent.rekeyDisk(disk, { from: old, to: next }, nextId),
  );
  crashPoint('steps.rekey.changed');
}

/** Names the new secret, then destroys the old one. `isOpen`: a guest has the disk, whose lease goes on. *Repeat*: fine. */
export async function adoptKey(context: OperationContext, { owner, requestId }: Rekey, isOpen: boolean): Promise<void> {
  const { disk } = await needPlacedDisk(context, owner);
  if (disk.state === 'rekeying') {
    const secrets = { secret_id: disk.otherSecretId, other_secret_id: disk.secretId };
    await updateDisk(context.db, disk.id, { ...secrets, state: 'formatted' });
    crashPoint('steps.rekey.named');
  }
  const { disk: named, agent } = await needPlacedDisk(context, owner);
  // What the old secret opens goes before it does, so that at no instant it is left with a header somewhere.
  await agent.forgetHeaders(named);
  crashPoint('steps.rekey.headers-forgotten');
  if (isOpen) await context.keys.closeOthers(named, requestId);
  else await context.keys.close([named], requestId);
  if (named.otherSecretId === null) return;
  await context.keys.destroyFormerKey(named, named.otherSecretId, requestId);
  await updateDisk(context.db, named.id, { other_secret_id: null });
}

/** Makes the old secret the only one that opens the disk again, and destroys the next. *Repeat*: fine. */
export async function restoreOldKey(context: OperationContext, rekey: Rekey, isOpen: boolean): Promise<void> {
  const { owner, projectId, requestId } = rekey;
  const { disk, agent } = await needPlacedDisk(context, owner);
  const { secretId, otherSecretId } = disk;
  if (disk.state !== 'rekeying' || secretId === null || otherSecretId === null) return;
  await context.keys.lendBoth(disk, projectId, requestId, ({ old, next }) =>
    agent.rekeyDisk(disk, { from: next, to: old }, secretId),
  );
  await agent.forgetHeaders(disk);
  await updateDisk(context.db, disk.id, { state: 'formatted', other_secret_id: null });
  if (isOpen) await context.keys.closeOthers(disk, requestId);
  else await context.keys.close([disk], requestId);
  await context.keys.destroyFormerKey(disk, otherSecretId, requestId);
}
