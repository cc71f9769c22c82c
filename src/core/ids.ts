import { randomUUID } from 'node:crypto';

declare const brand: unique symbol;
/** A string that may not be mixed up with another kind of string. */
export type Branded<Name extends string> = string & { readonly [brand]: Name };

export type ProjectId = Branded<'ProjectId'>;
export type UserId = Branded<'UserId'>;
export type ServerId = Branded<'ServerId'>;
export type DiskId = Branded<'DiskId'>;
export type SecretId = Branded<'SecretId'>;
export type LeaseId = Branded<'LeaseId'>;
export type ImageId = Branded<'ImageId'>;
export type VolumeId = Branded<'VolumeId'>;
export type VolumeTypeId = Branded<'VolumeTypeId'>;
export type SnapshotId = Branded<'SnapshotId'>;
export type BackupId = Branded<'BackupId'>;
export type AttachmentId = Branded<'AttachmentId'>;
export type TransferId = Branded<'TransferId'>;
export type HostName = Branded<'HostName'>;
/** A volume backend's name in its host's configuration. */
export type BackendName = Branded<'BackendName'>;
/** An absolute path on a compute host. */
export type HostPath = Branded<'HostPath'>;

/** A new random id (UUID version 4, RFC 9562 section 5.4). */
export function newId<Id extends Branded<string>>(): Id {
  return randomUUID() as Id;
}

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/;

export function isUuid(text: string): boolean {
  return UUID.test(text);
}
