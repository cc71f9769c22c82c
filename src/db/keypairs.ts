import type { Selectable } from 'kysely';
import type { UserId } from '#core/ids.ts';
import type { Queryable } from '#db/database.ts';
import type { Schema } from '#db/schema.ts';

export type Keypair = Selectable<Schema['keypairs']>;

/** Stores a key pair; null: its user has one of this name, which stays. */
export async function insertKeypair(
  db: Queryable,
  keypair: Pick<Keypair, 'user_id' | 'name' | 'public_key' | 'fingerprint'>,
): Promise<Keypair | null> {
  const stored = db
    .insertInto('keypairs')
    .values(keypair)
    .onConflict((conflict) => conflict.doNothing());
  return (await stored.returningAll().executeTakeFirst()) ?? null;
}

export async function findKeypair(db: Queryable, userId: UserId, name: string): Promise<Keypair | null> {
  const query = db.selectFrom('keypairs').selectAll().where('user_id', '=', userId).where('name', '=', name);
  return (await query.executeTakeFirst()) ?? null;
}

/** Those of a user, by name, after the one named `after`. */
export async function listKeypairs(
  db: Queryable,
  userId: UserId,
  { after, limit }: { readonly after: string | null; readonly limit: number },
): Promise<Keypair[]> {
  let query = db.selectFrom('keypairs').selectAll().where('user_id', '=', userId);
  if (after !== null) query = query.where('name', '>', after);
  return await query.orderBy('name').limit(limit).execute();
}

/** Returns whether there was one. Servers that were given it keep it. */
export async function deleteKeypair(db: Queryable, userId: UserId, name: string): Promise<boolean> {
  const query = db.deleteFrom('keypairs').where('user_id', '=', userId).where('name', '=', name);
  return (await query.executeTakeFirst()).numDeletedRows > 0n;
}
