import type { Selectable, Updateable } from 'kysely';
import { sql } from 'kysely';
import type { ImageId, ProjectId, SecretId } from '#core/ids.ts';
import type { DiskFormat, Image, ImageVisibility } from '#core/image.ts';
import { keyProperty } from '#core/image-encryption.ts';
import type { Database, Queryable } from '#db/database.ts';
import type { Schema } from '#db/schema.ts';

/** What a user says of a new image. */
export type NewImage = Pick<Image, 'id' | 'projectId' | 'name' | 'visibility' | 'diskFormat' | 'containerFormat'> &
  Pick<Image, 'minDiskGib' | 'minRamMib' | 'properties' | 'tags' | 'protected' | 'hidden'>;
/** What may change of an image's description. */
export type ImageChange = Partial<Omit<NewImage, 'id' | 'projectId'>>;

/** Adds an image without bytes. Null: there is one of that id already. */
export async function insertImage(db: Queryable, image: NewImage): Promise<Image | null> {
  const row = await db
    .insertInto('images')
    .values({
      ...columnsOf(image),
      id: image.id,
      project_id: image.projectId,
      status: 'queued',
      visibility: image.visibility,
      tags: [...image.tags],
      properties: JSON.stringify(image.properties),
      updated_at: new Date(),
    })
    .onConflict((conflict) => conflict.column('id').doNothing())
    .returningAll()
    .executeTakeFirst();
  return row ? toImage(row) : null;
}

/** Adds an image that is active and has no bytes: its properties say what servers made from it boot from. */
export async function insertImageWithoutData(db: Database, image: NewImage): Promise<void> {
  await db.transaction().execute(async (tx) => {
    await insertImage(tx, image);
    await tx.updateTable('images').set({ status: 'active', size_bytes: 0 }).where('id', '=', image.id).execute();
  });
}

/** The image; null: there is none, or it is being deleted. */
export async function findImage(db: Queryable, id: ImageId): Promise<Image | null> {
  const row = await db.selectFrom('images').selectAll().where('id', '=', id).executeTakeFirst();
  return row && row.status !== 'deleted' ? toImage(row) : null;
}

/** The image, locked against other changes until the transaction ends. */
export async function lockImage(transaction: Queryable, id: ImageId): Promise<Image | null> {
  const row = await transaction.selectFrom('images').selectAll().where('id', '=', id).forUpdate().executeTakeFirst();
  return row && row.status !== 'deleted' ? toImage(row) : null;
}

/** Images that a project sees, or all when null; community images of others are left out. Newest first. */
export async function listImages(db: Queryable, projectId: ProjectId | null): Promise<Image[]> {
  let query = db.selectFrom('images').selectAll().where('status', '<>', 'deleted');
  if (projectId !== null) {
    query = query.where((eb) =>
      eb.or([eb('project_id', '=', projectId), eb('visibility', 'in', ['public', 'community'])]),
    );
  }
  return (await query.orderBy('created_at', 'desc').orderBy('id', 'desc').execute()).map(toImage);
}

/** Changes an image's description. Null: there is none. */
export async function updateImage(db: Queryable, id: ImageId, change: ImageChange): Promise<Image | null> {
  const row = await db
    .updateTable('images')
    .set({ ...columnsOf(change), updated_at: new Date() })
    .where('id', '=', id)
    .where('status', '<>', 'deleted')
    .returningAll()
    .executeTakeFirst();
  return row ? toImage(row) : null;
}

/** Of several uploads at once exactly one gets the image; the others, and those to an image with bytes, get null. */
export async function claimUpload(db: Queryable, id: ImageId): Promise<Image | null> {
  const row = await db
    .updateTable('images')
    .set({ status: 'saving', updated_at: new Date() })
    .where('id', '=', id)
    .where('status', '=', 'queued')
    .returningAll()
    .executeTakeFirst();
  return row ? toImage(row) : null;
}

export type StoredBytes = {
  readonly sizeBytes: number;
  readonly virtualSizeBytes: number;
  readonly md5: string;
  readonly sha512: string;
};

/** Ends an upload: the image is active. Returns whether it was still being saved; it may have been deleted meanwhile. */
export async function finishUpload(db: Queryable, id: ImageId, bytes: StoredBytes): Promise<boolean> {
  const result = await db
    .updateTable('images')
    .set({
      status: 'active',
      size_bytes: bytes.sizeBytes,
      virtual_size_bytes: bytes.virtualSizeBytes,
      md5: bytes.md5,
      sha512: bytes.sha512,
      updated_at: new Date(),
    })
    .where('id', '=', id)
    .where('status', '=', 'saving')
    .executeTakeFirst();
  return result.numUpdatedRows > 0n;
}

/** Takes an upload back: the image waits for its bytes again. Without an id: all uploads, as after a crash. */
export async function abandonUpload(db: Queryable, id?: ImageId): Promise<void> {
  let query = db.updateTable('images').set({ status: 'queued', updated_at: new Date() }).where('status', '=', 'saving');
  if (id !== undefined) query = query.where('id', '=', id);
  await query.execute();
}

/**
 * Takes an image from its users, unless it is protected at that instant and `force` is not set. Its row stays until what
 * belongs to it is gone too (`forgetImage`). Null: there was none to take.
 */
export async function markImageDeleted(db: Queryable, id: ImageId, force: boolean): Promise<Image | null> {
  let query = db
    .updateTable('images')
    .set({ status: 'deleted', updated_at: new Date() })
    .where('id', '=', id)
    .where('status', '<>', 'deleted');
  if (!force) query = query.where('protected', '=', false);
  const row = await query.returningAll().executeTakeFirst();
  return row ? toImage(row) : null;
}

/** Images that were deleted and not yet forgotten. */
export async function deletedImages(db: Queryable): Promise<Image[]> {
  return (await db.selectFrom('images').selectAll().where('status', '=', 'deleted').execute()).map(toImage);
}

/** Removes the row of a deleted image. *Repeat*: fine. */
export async function forgetImage(db: Queryable, id: ImageId): Promise<void> {
  await db.deleteFrom('images').where('id', '=', id).where('status', '=', 'deleted').execute();
}

/**
 * Whether an image that is not being deleted names this secret of its project as its key. What images of other projects
 * name counts for nothing: it does not open them, and must not keep a secret from being destroyed.
 */
export async function isImageKey(db: Queryable, project: ProjectId, secret: SecretId): Promise<boolean> {
  const query = db
    .selectFrom('images')
    .select('id')
    .where('project_id', '=', project)
    .where('status', '<>', 'deleted')
    .where(sql<boolean>`properties @> ${JSON.stringify(keyProperty(secret))}::jsonb`);
  return (await query.executeTakeFirst()) !== undefined;
}

/** Adds a tag. *Repeat*: fine. */
export async function addTag(db: Queryable, id: ImageId, tag: string): Promise<void> {
  await db
    .updateTable('images')
    .set({ tags: sql<string[]>`array_append(array_remove(tags, ${tag}), ${tag})`, updated_at: new Date() })
    .where('id', '=', id)
    .execute();
}

/** Takes a tag away. Returns whether it was there. */
export async function removeTag(db: Queryable, id: ImageId, tag: string): Promise<boolean> {
  const result = await db
    .updateTable('images')
    .set({ tags: sql<string[]>`array_remove(tags, ${tag})`, updated_at: new Date() })
    .where('id', '=', id)
    .where(sql<boolean>`${tag} = any(tags)`)
    .executeTakeFirst();
  return result.numUpdatedRows > 0n;
}

/** Gives an image that has one status another. Returns whether it had it. */
export async function exchangeStatus(
  db: Queryable,
  id: ImageId,
  from: Image['status'],
  to: Image['status'],
): Promise<boolean> {
  const result = await db
    .updateTable('images')
    .set({ status: to, updated_at: new Date() })
    .where('id', '=', id)
    .where('status', '=', from)
    .executeTakeFirst();
  return result.numUpdatedRows > 0n;
}

/** Ids of images that have bytes. */
export async function storedImageIds(db: Queryable): Promise<ImageId[]> {
  const rows = await db.selectFrom('images').select('id').where('status', 'in', ['active', 'deactivated']).execute();
  return rows.map((row) => row.id);
}

function columnsOf(change: ImageChange): Updateable<Schema['images']> {
  const columns: Updateable<Schema['images']> = {};
  if (change.name !== undefined) columns.name = change.name;
  if (change.visibility !== undefined) columns.visibility = change.visibility;
  if (change.diskFormat !== undefined) columns.disk_format = change.diskFormat;
  if (change.containerFormat !== undefined) columns.container_format = change.containerFormat;
  if (change.minDiskGib !== undefined) columns.min_disk_gib = change.minDiskGib;
  if (change.minRamMib !== undefined) columns.min_ram_mib = change.minRamMib;
  if (change.properties !== undefined) columns.properties = JSON.stringify(change.properties);
  if (change.tags !== undefined) columns.tags = [...change.tags];
  if (change.protected !== undefined) columns.protected = change.protected;
  if (change.hidden !== undefined) columns.hidden = change.hidden;
  return columns;
}

function toImage(row: Selectable<Schema['images']>): Image {
  return {
    id: row.id,
    projectId: row.project_id,
    name: row.name,
    status: row.status,
    visibility: row.visibility as ImageVisibility,
    diskFormat: row.disk_format as DiskFormat | null,
    containerFormat: row.container_format,
    minDiskGib: row.min_disk_gib,
    minRamMib: row.min_ram_mib,
    sizeBytes: row.size_bytes,
    virtualSizeBytes: row.virtual_size_bytes,
    md5: row.md5,
    sha512: row.sha512,
    properties: row.properties,
    tags: row.tags,
    protected: row.protected,
    hidden: row.hidden,
    createdAt: row.created_at,
    updatedAt: row.updated_at,
  };
}
