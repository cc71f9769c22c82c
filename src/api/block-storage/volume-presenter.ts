import type { FastifyRequest } from 'fastify';
import { contextOf } from '#api/auth.ts';
import { linksTo } from '#api/block-storage/links.ts';
import { has } from '#api/block-storage/microversions.ts';
import { presentTime } from '#api/times.ts';
import type { SecretId, VolumeId, VolumeTypeId } from '#core/ids.ts';
import type { Database } from '#db/database.ts';
import type { Snapshot } from '#db/snapshots.ts';
import { type Attachment, attachmentsOf } from '#db/volume-attachments.ts';
import { poolAddresses } from '#db/volume-pools.ts';
import { typeNames } from '#db/volume-types.ts';
import { type Volume, volumeSecrets } from '#db/volumes.ts';

/** What is shown of volumes beside their own rows, read for a whole list at once. */
export type VolumeSurroundings = {
  readonly attachments: ReadonlyMap<VolumeId, Attachment>;
  readonly types: ReadonlyMap<VolumeTypeId, string>;
  readonly secrets: ReadonlyMap<VolumeId, SecretId>;
  /** Addresses of backends with their pools, by HOST@BACKEND. */
  readonly pools: ReadonlyMap<string, string>;
};

export async function surroundingsOf(db: Database, volumes: readonly Volume[]): Promise<VolumeSurroundings> {
  const ids = volumes.map(({ id }) => id);
  const [attachments, types, secrets, pools] = await Promise.all([
    attachmentsOf(db, ids),
    typeNames(db),
    volumeSecrets(db, ids),
    poolAddresses(db),
  ]);
  return { attachments, types, secrets, pools };
}

export function presentVolumeSummary(request: FastifyRequest, publicUrl: string | null, volume: Volume): object {
  return { id: volume.id, name: volume.name, links: linksTo(request, publicUrl, `volumes/${volume.id}`) };
}

/**
 * See Block Storage API v3 "Show a volume's details". The answer to its creation and to a change shows less (`isWhole`
 * false).
 */
export function presentVolume(
  request: FastifyRequest,
  publicUrl: string | null,
  volume: Volume,
  { attachments, types, secrets, pools }: VolumeSurroundings,
  isWhole = true,
): object {
  const { isAdmin } = contextOf(request);
  const attachment = attachments.get(volume.id);
  const type = volume.volume_type_id === null ? null : (types.get(volume.volume_type_id) ?? null);
  return {
    ...presentVolumeSummary(request, publicUrl, volume),
    description: volume.description,
    status: volume.status,
    size: volume.size_gib,
    created_at: presentTime(volume.created_at),
    updated_at: presentTime(volume.updated_at),
    availability_zone: volume.availability_zone,
    bootable: String(volume.bootable),
    encrypted: volume.encryption !== null,
    multiattach: false,
    volume_type: type,
    snapshot_id: sourceId(volume, 'snapshot'),
    source_volid: sourceId(volume, 'volume'),
    user_id: volume.user_id,
    replication_status: null,
    consistencygroup_id: null,
    metadata: {
      ...volume.metadata,
      ...(volume.readonly === null ? {} : { readonly: volume.readonly ? 'True' : 'False' }),
    },
    attachments: attachment && attachment.status !== 'reserved' ? [presentAttached(attachment)] : [],
    ...(isWhole ? { 'os-vol-tenant-attr:tenant_id': volume.project_id } : {}),
    ...(isWhole && volume.image_metadata !== null ? { volume_image_metadata: volume.image_metadata } : {}),
    ...(isWhole && isAdmin ? adminFields(volume, pools) : {}),
    ...(has(request, 'groups') ? { group_id: null } : {}),
    ...(isAdmin && has(request, 'provider-id') ? { provider_id: null } : {}),
    ...(has(request, 'shared-targets') ? { service_uuid: null, shared_targets: false } : {}),
    ...(isAdmin && has(request, 'cluster-name') ? { cluster_name: null } : {}),
    ...(has(request, 'volume-type-id') ? { volume_type_id: volume.volume_type_id } : {}),
    ...(has(request, 'encryption-key-id') && secrets.has(volume.id)
      ? { encryption_key_id: secrets.get(volume.id) }
      : {}),
    ...(has(request, 'consumes-quota') ? { consumes_quota: true } : {}),
  };
}

function adminFields(volume: Volume, pools: VolumeSurroundings['pools']): object {
  const place = `${volume.host}@${volume.backend}`;
  return {
    'os-vol-host-attr:host': volume.host === null ? null : (pools.get(place) ?? place),
    'os-vol-mig-status-attr:migstat': volume.migration_status,
    migration_status: volume.migration_status,
    'os-vol-mig-status-attr:name_id': null,
  };
}

function presentAttached(attachment: Attachment): object {
  return {
    id: attachment.volume_id,
    attachment_id: attachment.id,
    volume_id: attachment.volume_id,
    // One that a client wrote down has its server in what the client said.
    server_id: attachment.server_id ?? attachment.connector?.instance ?? null,
    host_name: null,
    device: attachment.device,
    attached_at: attachment.attached_at === null ? null : presentTime(attachment.attached_at),
  };
}

function sourceId({ source }: Volume, kind: Volume['source']['kind']): string | null {
  return source.kind === kind && source.kind !== 'blank' ? source.id : null;
}

/** See "Show a snapshot's details". */
export function presentSnapshot(request: FastifyRequest, snapshot: Snapshot, isDetailed: boolean): object {
  const fields = {
    id: snapshot.id,
    name: snapshot.name,
    description: snapshot.description,
    volume_id: snapshot.volume_id,
    status: snapshot.status,
    size: snapshot.size_gib,
    metadata: snapshot.metadata,
    created_at: presentTime(snapshot.created_at),
    updated_at: presentTime(snapshot.updated_at),
    ...(has(request, 'snapshot-user') ? { user_id: snapshot.user_id } : {}),
    ...(has(request, 'consumes-quota') ? { consumes_quota: true } : {}),
  };
  if (!isDetailed) return fields;
  return {
    ...fields,
    'os-extended-snapshot-attributes:project_id': snapshot.project_id,
    'os-extended-snapshot-attributes:progress': snapshot.progress ?? (snapshot.status === 'available' ? '100%' : '0%'),
    ...(has(request, 'groups') ? { group_snapshot_id: null } : {}),
  };
}
