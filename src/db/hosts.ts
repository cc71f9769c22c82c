import type { Selectable } from 'kysely';
import { sql } from 'kysely';
import { NightlatchError, notFound } from '#core/errors.ts';
import type { HostName, ServerId } from '#core/ids.ts';
import { GIB } from '#core/sizes.ts';
import type { Database, Queryable } from '#db/database.ts';
import type { Schema } from '#db/schema.ts';
import { serversOnHost } from '#db/servers.ts';

export type Host = Selectable<Schema['hosts']>;
/** A host not heard of for so long is down. */
const DOWN_AFTER_MS = 30_000;
/** What is taken of a host. */
export type HostUse = { readonly vcpus: number; readonly memoryMib: number; readonly diskGib: number };

/** What a host says of itself. Which boot it is in is for `recordBoot`. */
export type HostReport = Omit<Host, 'address' | 'certificate' | 'boot_id'>;

/** What is written of a host until its agent tells more. */
const UNSEEN: Omit<HostReport, 'name'> = {
  traits: [],
  vcpus: 0,
  memory_mib: 0,
  disk_gib: 0,
  virt_type: 'qemu',
  storage: 'raw',
  default_encryption_format: 'luks',
  undecided_encryption_format: null,
  volume_backends: [],
  seen_at: new Date(0),
};

function asColumns<T extends Pick<HostReport, 'volume_backends'>>(facts: T) {
  return { ...facts, volume_backends: JSON.stringify(facts.volume_backends) };
}

export async function saveHost(db: Queryable, report: HostReport): Promise<void> {
  const { name, ...facts } = asColumns(report);
  await db
    .insertInto('hosts')
    .values({ name, ...facts, address: null, certificate: null, boot_id: null })
    .onConflict((conflict) => conflict.column('name').doUpdateSet(facts))
    .execute();
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

/** As `saveHost`, for a host that was enrolled; one that was removed meanwhile stays so. */
export async function updateHost(db: Queryable, report: HostReport): Promise<void> {
  const { name, ...facts } = asColumns(report);
  await db.updateTable('hosts').set(facts).where('name', '=', name).execute();
}

/** Writes that these hosts are reachable now. */
export async function markSeen(db: Queryable, names: readonly HostName[]): Promise<void> {
  if (names.length === 0) return;
  await db
    .updateTable('hosts')
    .set({ seen_at: new Date() })
    .where('name', 'in', [...names])
    .execute();
}

/** Writes that a host is not reachable now. */
export async function markLost(db: Queryable, name: HostName): Promise<void> {
  const seen_at = new Date(Date.now() - DOWN_AFTER_MS);
  await db.updateTable('hosts').set({ seen_at }).where('name', '=', name).where('seen_at', '>', seen_at).execute();
}

/** Whether a host was reachable a moment ago: whoever serves says so every few seconds. */
export function isUp(host: Pick<Host, 'seen_at'>): boolean {
  return Date.now() - host.seen_at.getTime() < DOWN_AFTER_MS;
}

/** Makes a host on another machine known, or known by another address and certificate. *Throws* conflict. */
export async function enrollHost(db: Queryable, place: { name: HostName; address: string; certificate: string }) {
  const known = await db.selectFrom('hosts').selectAll().where('name', '=', place.name).executeTakeFirst();
  if (known && known.address === null) {
    const reason = `Enrolling host ${place.name} failed: the control plane's own machine has that name. Choose another.`;
    throw new NightlatchError('conflict', { reason });
  }
  const { address, certificate } = place;
  await db
    .insertInto('hosts')
    .values(asColumns({ ...UNSEEN, ...place }))
    .onConflict((conflict) => conflict.column('name').doUpdateSet({ address, certificate }))
    .execute();
}

/** Forgets a host. *Throws* not-found; conflict while servers are there. */
export async function removeHost(db: Database, name: HostName): Promise<void> {
  await db.transaction().execute(async (tx) => {
    await lockPlacement(tx);
    const here = await serversOnHost(tx, name);
    if (here.length > 0) {
      const reason = `Removing host ${name} failed: ${here.length} servers are there. Delete them first.`;
      throw new NightlatchError('conflict', { reason });
    }
    const removed = await tx.deleteFrom('hosts').where('name', '=', name).executeTakeFirst();
    if (removed.numDeletedRows === 0n) throw notFound('Host', name);
  });
}

/** Any constant: placements wait for each other under this advisory lock, so that no room is given away twice. */
const PLACEMENT_LOCK = 0x6e6c_706c;

/** Until the transaction ends nobody else chooses a host or takes one away. */
export async function lockPlacement(tx: Queryable): Promise<void> {
  await sql`select pg_advisory_xact_lock(${PLACEMENT_LOCK})`.execute(tx);
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
