import { openBackup } from '#backups/backup-chunks.ts';
import type { MediumContent } from '#core/disk.ts';
import { NightlatchError } from '#core/errors.ts';
import type { DiskId } from '#core/ids.ts';
import { releaseBackup } from '#db/backups.ts';
import type { DiskKeys } from '#host/host-agent.ts';
import type { OperationContext } from '#operations/context.ts';
import { needBackup } from '#operations/create-backup.ts';
import type { Failure, Operation } from '#operations/engine.ts';
import { replaceContent } from '#operations/replace-content.ts';
import { type BackupInput, failVolume, finishVolume, type PlacedDisk } from '#operations/volume-context.ts';

/**
 * Restore backup: a disk is made from its bytes, under a key of its own, and takes the place of the volume's. Until then the
 * volume keeps what it has.
 *
 * | step                 | effect                                     | compensation | a repeat |
 * |----------------------|--------------------------------------------|--------------|----------|
 * | see `replaceContent` | the volume has what the backup has         | as it was    | fine     |
 * | finish               | backup and volume are available            | –            | same     |
 */
export function restoreBackup(context: OperationContext): Operation<BackupInput> {
  return {
    name: 'restore-backup',
    steps: [
      ...replaceContent<BackupInput>(context, {
        fill: ({ backupId, requestId }, coming) => fillFromBackup(context, { ...coming, backupId, requestId }),
      }),
      { name: 'finish', run: (input) => finish(context, input) },
    ],
    failed: (input, failure) => fail(context, input, failure),
  };
}

/**
 * Makes a disk that holds what a backup does, under the disk's own key; locked, its lease closed. *Repeat*: starts over.
 * *Throws* backup-damaged, also for one that lies otherwise than the disk.
 */
export async function fillFromBackup(
  context: OperationContext,
  { backupId, disk, agent, requestId }: PlacedDisk & Pick<BackupInput, 'backupId' | 'requestId'>,
): Promise<void> {
  const { layout, secret_id: secretId } = await needBackup(context, backupId);
  if (layout?.encryption !== disk.encryption) {
    const [was, is] = [layout?.encryption ?? 'none', disk.encryption ?? 'none'];
    const reason = `backup ${backupId} has encryption ${was}, and the volume ${is}`;
    throw new NightlatchError('backup-damaged', { reason });
  }
  const content: MediumContent = {
    kind: 'medium',
    keyId: backupId as string as DiskId,
    sizeBytes: layout.sizeBytes,
    format: layout.storage === 'qcow2' ? 'qcow2' : 'raw',
    open: () => openBackup(context.backups, backupId),
  };
  const key = secretId === null ? null : { imageId: backupId as string as never, secretId, disk };
  try {
    await context.keys.lend([disk], 'copy', requestId, (keys: DiskKeys) => agent.createDisk(disk, content, keys), key);
  } finally {
    await context.keys.close([disk], requestId);
  }
}

async function finish(context: OperationContext, input: BackupInput): Promise<void> {
  const { volumeId, backupId, operationId } = input;
  const restored = { status: 'available', restored_volume_id: volumeId } as const;
  await releaseBackup(context.db, backupId, operationId, restored);
  await finishVolume(context, input, { status: 'available', previous_status: null });
}

async function fail(context: OperationContext, input: BackupInput, { message }: Failure): Promise<void> {
  await releaseBackup(context.db, input.backupId, input.operationId, { status: 'available', fail_reason: message });
  await failVolume(context, input, 'error_restoring');
}
