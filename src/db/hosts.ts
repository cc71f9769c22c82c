import type { Selectable } from 'kysely';
import { sql } from 'kysely';
import type { HostName } from '#core/ids.ts';
import type { Queryable } from '#db/database.ts';
import type { Schema } from '#db/schema.ts';

export type Host = Selectable<Schema['hosts']>;
/** What the servers on a host take of it. */
export type HostUse = { readonly vcpus: number; readonly memoryMib: number; readonly diskGib: number };

export async function saveHost(db: Queryable, host: Host): Promise<void> {
  const { name, ...facts } = host;
  await db
    .insertInto('hosts')
    .values(host)
    .onConflict((conflict) => conflict.column('name').doUpdateSet(facts))
    .execute();
  void name;
}

export async function listHosts(db: Queryable): Promise<Host[]> {
  return await db.selectFrom('hosts').selectAll().orderBy('name').execute();
}

/** Derived from the servers placed on the host, never stored. */
export async function hostUse(db: Queryable, name: HostName): Promise<HostUse> {
  const row = await db
    .selectFrom('servers')
    .where('host', '=', name)
    .where('vm_state', 'not in', ['deleted', 'error'])
    .select([
      sql<number>`coalesce(sum((flavor ->> 'vcpus')::bigint), 0)::bigint`.as('vcpus'),
      sql<number>`coalesce(sum((flavor ->> 'ramMib')::bigint), 0)::bigint`.as('memoryMib'),
      sql<number>`coalesce(sum((flavor ->> 'rootGib')::bigint + (flavor ->> 'ephemeralGib')::bigint), 0)::bigint`.as(
        'diskGib',
      ),
    ])
    .executeTakeFirstOrThrow();
  return row;
}
