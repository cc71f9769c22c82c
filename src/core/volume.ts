import { NightlatchError } from '#core/errors.ts';

/** See OpenStack Block Storage API v3 "Volumes (volumes)", volume statuses. */
export const volumeStatuses = [
  'creating',
  'downloading',
  'available',
  'reserved',
  'attaching',
  'detaching',
  'in-use',
  'maintenance',
  'extending',
  'retyping',
  'uploading',
  'deleting',
  'awaiting-transfer',
  'backing-up',
  'restoring-backup',
  'reverting',
  'error',
  'error_deleting',
  'error_backing-up',
  'error_restoring',
  'error_extending',
  'error_managing',
] as const;
export type VolumeStatus = (typeof volumeStatuses)[number];

/** See the same, "Volume snapshots (snapshots)". */
export const snapshotStatuses = [
  'creating',
  'available',
  'backing-up',
  'restoring',
  'deleting',
  'deleted',
  'error',
  'error_deleting',
] as const;
export type SnapshotStatus = (typeof snapshotStatuses)[number];

/** See the same, "Backups (backups)". */
export const backupStatuses = ['creating', 'available', 'restoring', 'deleting', 'error', 'error_deleting'] as const;
export type BackupStatus = (typeof backupStatuses)[number];

export const attachmentStatuses = ['reserved', 'attaching', 'attached', 'detaching', 'detached'] as const;
export type AttachmentStatus = (typeof attachmentStatuses)[number];

/** What may be asked of a volume that is there. While one of them is under way no other begins. */
export type VolumeAction =
  | 'delete'
  | 'force-delete'
  | 'extend'
  | 'attach'
  | 'detach'
  | 'copy-from'
  | 'offer'
  | 'withdraw'
  | 'accept'
  | 'rekey'
  | 'restore-header'
  | 'upload'
  | 'back-up'
  | 'restore'
  | 'revert'
  | 'reimage'
  | 'reimage-reserved'
  | 'retype'
  | 'migrate';

type Rule = {
  readonly from: readonly VolumeStatus[];
  /** The status while it goes on; null: it stays what it is. */
  readonly during: VolumeStatus | null;
};

export const volumeActions: Readonly<Record<VolumeAction, Rule>> = {
  delete: {
    from: ['available', 'error', 'error_restoring', 'error_extending', 'error_managing'],
    during: 'deleting',
  },
  'force-delete': { from: volumeStatuses.filter((status) => status !== 'in-use'), during: 'deleting' },
  extend: { from: ['available', 'in-use'], during: 'extending' },
  attach: { from: ['available', 'reserved'], during: 'attaching' },
  detach: { from: ['in-use', 'attaching', 'detaching'], during: 'detaching' },
  'copy-from': { from: ['available', 'in-use'], during: null },
  offer: { from: ['available'], during: 'awaiting-transfer' },
  withdraw: { from: ['awaiting-transfer'], during: 'available' },
  accept: { from: ['awaiting-transfer'], during: null },
  rekey: { from: ['available', 'in-use'], during: null },
  'restore-header': {
    from: ['available', 'in-use', 'error', 'error_restoring', 'error_extending'],
    during: 'maintenance',
  },
  'back-up': { from: ['available', 'in-use'], during: 'backing-up' },
  restore: { from: ['available'], during: 'restoring-backup' },
  revert: { from: ['available'], during: 'reverting' },
  reimage: { from: ['available', 'error'], during: 'downloading' },
  'reimage-reserved': { from: ['available', 'error', 'reserved'], during: 'downloading' },
  upload: { from: ['available', 'in-use'], during: 'uploading' },
  retype: { from: ['available', 'in-use'], during: 'retyping' },
  migrate: { from: ['available', 'in-use'], during: null },
};

/**
 * @throws volume-state (400) with Cinder's words when the action is not allowed now.
 */
export function checkVolumeAction(
  action: VolumeAction,
  volume: { readonly id: string; readonly status: VolumeStatus; readonly isBusy: boolean },
): void {
  const { from } = volumeActions[action];
  if (from.includes(volume.status) && !volume.isBusy) return;
  const allowed = from.join(' or ');
  const status = statusInWords(volume.status, from);
  throw new NightlatchError('volume-state', { volume: volume.id, action, allowed, status });
}

/** The status of what is refused, also when that would do and it is busy. */
export function statusInWords(status: string, allowed: readonly string[]): string {
  return allowed.includes(status) ? `${status}, with another operation under way` : status;
}

/** What a new volume holds, and where that comes from. */
export type VolumeSource =
  | { readonly kind: 'blank' }
  | { readonly kind: 'image'; readonly id: string }
  | { readonly kind: 'snapshot'; readonly id: string }
  | { readonly kind: 'volume'; readonly id: string }
  | { readonly kind: 'backup'; readonly id: string };

/** How a volume is encrypted, as its type said when it was made. `keyBits`: what the type called key_size. */
export type VolumeEncryption = {
  readonly provider: string;
  readonly cipher: string | null;
  readonly keySize: number | null;
  readonly controlLocation: string;
};
