import type { ColumnType } from 'kysely';
import type { DiskId, HostName, ImageId, LeaseId, ProjectId, SecretId } from '#core/ids.ts';
import type { CreatedAt } from '#db/tables/columns.ts';

export type SecretsTable = {
  id: SecretId;
  project_id: ProjectId;
  /** What the secret is for, unique: storing again under the same label finds the first. */
  label: string;
  name: string;
  /** AES-256-GCM under the root key named `root_key_id`: nonce, ciphertext, tag. */
  nonce: Buffer;
  wrapped: Buffer;
  root_key_id: string;
  created_at: CreatedAt;
};

export type LeasesTable = {
  id: LeaseId;
  disk_id: DiskId;
  project_id: ProjectId;
  secret_id: SecretId;
  /** The key is that of this image, from which the disk is made. */
  image_id: ImageId | null;
  host: HostName;
  reason: string;
  opened_at: ColumnType<Date, Date, never>;
  closed_at: ColumnType<Date | null, Date | null | undefined, Date | null>;
};

export type AuditRecordsTable = {
  sequence: number;
  at: ColumnType<Date, Date, never>;
  event: string;
  /** The record's facts as canonical JSON (RFC 8785), exactly the bytes that were hashed. */
  body: string;
  previous_hash: Buffer;
  hash: Buffer;
};
