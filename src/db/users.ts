import type { Insertable, Selectable, Updateable } from 'kysely';
import type { UserId } from '#core/ids.ts';
import type { Queryable } from '#db/database.ts';
import type { Schema } from '#db/schema.ts';

export type User = Selectable<Schema['users']>;
export type NewUser = Insertable<Schema['users']>;
export type UserChange = Omit<Updateable<Schema['users']>, 'id' | 'domain_id'>;

/** Adds a user. Null: the domain has one of that name already. */
export async function insertUser(db: Queryable, user: NewUser): Promise<User | null> {
  const row = await db
    .insertInto('users')
    .values(user)
    .onConflict((conflict) => conflict.columns(['domain_id', 'name']).doNothing())
    .returningAll()
    .executeTakeFirst();
  return row ?? null;
}

export async function findUser(db: Queryable, id: UserId): Promise<User | null> {
  return (await db.selectFrom('users').selectAll().where('id', '=', id).executeTakeFirst()) ?? null;
}

export async function findUserByName(db: Queryable, name: string, domainId: string): Promise<User | null> {
  const query = db.selectFrom('users').selectAll().where('name', '=', name).where('domain_id', '=', domainId);
  return (await query.executeTakeFirst()) ?? null;
}

export type UserFilter = { readonly name?: string; readonly enabled?: boolean; readonly domainId?: string };

/** Users by name. */
export async function listUsers(db: Queryable, filter: UserFilter = {}): Promise<User[]> {
  let query = db.selectFrom('users').selectAll();
  if (filter.name !== undefined) query = query.where('name', '=', filter.name);
  if (filter.enabled !== undefined) query = query.where('enabled', '=', filter.enabled);
  if (filter.domainId !== undefined) query = query.where('domain_id', '=', filter.domainId);
  return await query.orderBy('name').orderBy('id').execute();
}

/** Changes a user. Null: there is none. *Throws* PostgreSQL's unique violation when the new name is taken. */
export async function updateUser(db: Queryable, id: UserId, change: UserChange): Promise<User | null> {
  if (Object.keys(change).length === 0) return await findUser(db, id);
  return (await db.updateTable('users').set(change).where('id', '=', id).returningAll().executeTakeFirst()) ?? null;
}

/** Removes a user with its tokens and role assignments. Returns whether there was one. */
export async function deleteUser(db: Queryable, id: UserId): Promise<boolean> {
  const result = await db.deleteFrom('users').where('id', '=', id).executeTakeFirst();
  return result.numDeletedRows > 0n;
}
