import type { Insertable, Selectable, Updateable } from 'kysely';
import type { AttachmentId, ProjectId, ServerId, VolumeId } from '#core/ids.ts';
import type { Queryable } from '#db/database.ts';
import type { Schema } from '#db/schema.ts';

export type Attachment = Selectable<Schema['volume_attachments']>;
export type NewAttachment = Insertable<Schema['volume_attachments']>;

export async function insertAttachment(db: Queryable, attachment: NewAttachment): Promise<Attachment> {
  return await db.insertInto('volume_attachments').values(attachment).returningAll().executeTakeFirstOrThrow();
}

/** The attachment, or null when there is none; an ended one is not found. */
export async function findAttachment(db: Queryable, id: AttachmentId): Promise<Attachment | null> {
  const query = db.selectFrom('volume_attachments').selectAll().where('id', '=', id).where('detached_at', 'is', null);
  return (await query.executeTakeFirst()) ?? null;
}

/** Attachments that are not ended, of volumes of one project or of all; the latest first. */
export async function listAttachments(db: Queryable, projectId: ProjectId | null): Promise<Attachment[]> {
  let query = db
    .selectFrom('volume_attachments')
    .innerJoin('volumes', 'volumes.id', 'volume_attachments.volume_id')
    .selectAll('volume_attachments')
    .where('volume_attachments.detached_at', 'is', null)
    .where('volumes.deleted_at', 'is', null);
  if (projectId !== null) query = query.where('volumes.project_id', '=', projectId);
  return await query.orderBy('volume_attachments.created_at', 'desc').orderBy('volume_attachments.id').execute();
}

/** What a volume is attached to, or reserved for, now; null: nothing. */
export async function attachmentOf(db: Queryable, volumeId: VolumeId): Promise<Attachment | null> {
  const live = db.selectFrom('volume_attachments').selectAll().where('detached_at', 'is', null);
  return (await live.where('volume_id', '=', volumeId).executeTakeFirst()) ?? null;
}

/** As `attachmentOf`, of several volumes at once. */
export async function attachmentsOf(
  db: Queryable,
  volumes: readonly VolumeId[],
): Promise<ReadonlyMap<VolumeId, Attachment>> {
  if (volumes.length === 0) return new Map();
  const live = db.selectFrom('volume_attachments').selectAll().where('detached_at', 'is', null);
  const rows = await live.where('volume_id', 'in', [...volumes]).execute();
  return new Map(rows.map((row) => [row.volume_id, row]));
}

/** A server's attachments, in the order of their device names. */
export async function attachmentsToServer(db: Queryable, serverId: ServerId): Promise<Attachment[]> {
  const live = db.selectFrom('volume_attachments').selectAll().where('detached_at', 'is', null);
  return await live.where('server_id', '=', serverId).orderBy('device').execute();
}

/** The device names that a server's volumes have, or ever had. */
export async function devicesEverUsed(db: Queryable, serverId: ServerId): Promise<ReadonlySet<string>> {
  const rows = await db.selectFrom('volume_attachments').select('device').where('server_id', '=', serverId).execute();
  return new Set(rows.flatMap(({ device }) => device ?? []));
}

/** Whether a server has a volume that is encrypted. */
export async function hasEncryptedVolume(db: Queryable, serverId: ServerId): Promise<boolean> {
  const live = db.selectFrom('volume_attachments').where('detached_at', 'is', null).where('server_id', '=', serverId);
  const encrypted = live
    .innerJoin('disks', 'disks.owner_id', 'volume_attachments.volume_id')
    .where('disks.state', '<>', 'destroyed')
    .where('disks.encryption', 'is not', null);
  return (await encrypted.select('disks.id').executeTakeFirst()) !== undefined;
}

/** As `attachmentsToServer`, of several servers at once. */
export async function attachmentsToServers(
  db: Queryable,
  servers: readonly ServerId[],
): Promise<ReadonlyMap<ServerId, Attachment[]>> {
  const all = new Map<ServerId, Attachment[]>(servers.map((id) => [id, []]));
  if (servers.length === 0) return all;
  const live = db.selectFrom('volume_attachments').selectAll().where('detached_at', 'is', null);
  const rows = await live
    .where('server_id', 'in', [...servers])
    .orderBy('device')
    .execute();
  for (const row of rows) if (row.server_id !== null) all.get(row.server_id)?.push(row);
  return all;
}

export async function updateAttachment(
  db: Queryable,
  id: AttachmentId,
  change: Omit<Updateable<Schema['volume_attachments']>, 'id'>,
): Promise<void> {
  await db.updateTable('volume_attachments').set(change).where('id', '=', id).execute();
}

/** Ends an attachment. *Repeat*: fine. */
export async function endAttachment(db: Queryable, id: AttachmentId): Promise<void> {
  const change = { status: 'detached', detached_at: new Date() } as const;
  await db
    .updateTable('volume_attachments')
    .set(change)
    .where('id', '=', id)
    .where('detached_at', 'is', null)
    .execute();
}
