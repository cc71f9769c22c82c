import { randomUUID } from 'node:crypto';
import type { Selectable } from 'kysely';
import type { ProjectId, VolumeId } from '#core/ids.ts';
import type { Queryable } from '#db/database.ts';
import type { Schema } from '#db/schema.ts';

export type Message = Selectable<Schema['messages']>;
/** `event`: the last part of the event's id, such as `001_003`: what was done and why it failed, in Cinder's numbers. */
export type NewMessage = Pick<Message, 'project_id' | 'request_id' | 'resource_type' | 'resource_uuid'> & {
  readonly event: string;
  /** What a user is to read. */
  readonly text: string;
};

const KEPT_MS = 30 * 24 * 3600 * 1000;

/** Tells a project that something failed after its request was answered. Messages are kept for 30 days. */
export async function insertMessage(db: Queryable, message: NewMessage): Promise<void> {
  const { event, text, ...facts } = message;
  const now = Date.now();
  await db.deleteFrom('messages').where('expires_at', '<', new Date(now)).execute();
  await db
    .insertInto('messages')
    .values({
      ...facts,
      id: randomUUID(),
      event_id: `VOLUME_${facts.resource_type}_${event}`,
      message_level: 'ERROR',
      user_message: text,
      expires_at: new Date(now + KEPT_MS),
    })
    .execute();
}

/** A project's messages, newest first. */
export async function listMessages(db: Queryable, projectId: ProjectId): Promise<Message[]> {
  return await db
    .selectFrom('messages')
    .selectAll()
    .where('project_id', '=', projectId)
    .where('expires_at', '>', new Date())
    .orderBy('created_at', 'desc')
    .orderBy('id')
    .execute();
}

/** What a project was last told about this volume; null: nothing. */
export async function failureOf(db: Queryable, volumeId: VolumeId): Promise<string | null> {
  const told = db.selectFrom('messages').select('user_message').where('resource_uuid', '=', volumeId);
  return (await told.orderBy('created_at', 'desc').executeTakeFirst())?.user_message ?? null;
}

export async function findMessage(db: Queryable, id: string): Promise<Message | null> {
  const query = db.selectFrom('messages').selectAll().where('id', '=', id).where('expires_at', '>', new Date());
  return (await query.executeTakeFirst()) ?? null;
}

/** *Repeat*: fine. */
export async function deleteMessage(db: Queryable, id: string): Promise<void> {
  await db.deleteFrom('messages').where('id', '=', id).execute();
}
