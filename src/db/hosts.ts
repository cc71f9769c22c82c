import type { Selectable } from 'kysely';
import { sql } from 'kysely';
import type { HostName, ServerId } from '#core/ids.ts';
import { GIB } from '#core/sizes.ts';
import type { Queryable } from '#db/database.ts';
import type { Schema } from '#db/schema.ts';

export type Host = Selectable<Schema['hosts']>;
/** What is taken of a host. */
export type HostUse = { readonly vcpus: number; readonly memoryMib: number; readonly diskGib: number };

/** Writes down what a host is. Which boot it is in is for `recordBoot`. */
export async function saveHost(db: Queryable, host: Omit<Host, 'boot_id'>): Promise<void> {
  const { name, ...facts } = host;
  await db
    .insertInto('hosts')
    .values({ ...host, boot_id: null })
    .onConflict((conflict) => conflict.column('name').doUpdateSet(facts))
    .execute();
  void name;
}

/** The boot that was recorded last; null: none. */
export async function recordedBoot(db: Queryable, name: HostName): Promise<string | null> {
  const row = await db.selectFrom('hosts').select('boot_id').where('name', '=', name).executeTakeFirst();
  return row?.boot_id ?? null;
}

/** Says that the servers on a host are written as they are in this boot of it. */
export async function recordBoot(db: Queryable, name: HostName, bootId: string): Promise<void> {
  await db.updateTable('hosts').set({ boot_id: bootId }).where('name', '=', name).execute();
}

export async function listHosts(db: Queryable): Promise<Host[]> {
  return await db.selectFrom('hosts').selectAll().orderBy('name').execute();
}

/**
 * Derived from the servers placed on the host and the disks that lie there, never stored. A server that is resized counts
 * with the larger of its flavors, and with the disks of both. `except`: CPUs and memory of this server do not count.
 */
export async function hostUse(db: Queryable, name: HostName, except: ServerId | null = null): Promise<HostUse> {
  const most = (field: 'vcpus' | 'ramMib') => sql<number>`coalesce(sum(greatest(
    (flavor ->> ${sql.lit(field)})::bigint,
    (old_flavor ->> ${sql.lit(field)})::bigint,
    (replacement -> 'columns' -> 'flavor' ->> ${sql.lit(field)})::bigint)), 0)::bigint`;
  const servers = await db
    .selectFrom('servers')
    .where('host', '=', name)
    .where('vm_state', 'not in', ['deleted', 'error'])
    .$if(except !== null, (query) => query.where('id', '<>', except as ServerId))
    .select([most('vcpus').as('vcpus'), most('ramMib').as('memoryMib')])
    .executeTakeFirstOrThrow();
  const disks = await db
    .selectFrom('disks')
    .where('host', '=', name)
    .where('state', '<>', 'destroyed')
    .select(sql<number>`ceil(coalesce(sum(size_bytes), 0) / ${sql.lit(GIB)})::bigint`.as('diskGib'))
    .executeTakeFirstOrThrow();
  return { ...servers, ...disks };
}
