import { sql } from 'kysely';
import type { BackendName, HostName } from '#core/ids.ts';
import { GIB } from '#core/sizes.ts';
import { backendAddress, type VolumeBackend } from '#core/volume-backend.ts';
import type { Queryable } from '#db/database.ts';
import { isUp, listHosts } from '#db/hosts.ts';

/** A backend of a host, with what lies there. */
export type Pool = {
  readonly host: HostName;
  readonly isUp: boolean;
  readonly seenAt: Date;
  readonly backend: VolumeBackend;
  /** Of all volumes and snapshots there. */
  readonly usedGib: number;
};

/** Every volume backend of every host, in the order of their names. */
export async function listPools(db: Queryable): Promise<Pool[]> {
  const used = await poolUse(db);
  return (await listHosts(db)).flatMap((host) =>
    host.volume_backends.map((backend) => ({
      host: host.name,
      isUp: isUp(host),
      seenAt: host.seen_at,
      backend,
      usedGib: used.get(`${host.name}@${backend.name}`) ?? 0,
    })),
  );
}

async function poolUse(db: Queryable): Promise<Map<string, number>> {
  const rows = await db
    .selectFrom('disks')
    .where('backend', 'is not', null)
    .where('host', 'is not', null)
    .where('state', '<>', 'destroyed')
    .groupBy(['host', 'backend'])
    .select(['host', 'backend', sql<number>`ceil(sum(size_bytes) / ${sql.lit(GIB)})::bigint`.as('gib')])
    .execute();
  return new Map(rows.map(({ host, backend, gib }) => [`${host}@${backend}`, gib]));
}

/** What of one project's volumes and snapshots lies in a backend. */
export type HostVolumes = {
  readonly project_id: string;
  readonly volumes: number;
  readonly volumes_gib: number;
  readonly snapshots: number;
  readonly snapshots_gib: number;
};

/** Which projects have volumes in a backend, and how much of them. Snapshots lie with their volumes. */
export async function volumesOnHost(db: Queryable, host: HostName, backend: BackendName): Promise<HostVolumes[]> {
  const { rows } = await sql<HostVolumes>`
    with here as (
      select id, project_id, size_gib from volumes
      where deleted_at is null and host = ${host} and backend = ${backend}),
    copies as (
      select here.project_id, count(*)::int as snapshots, sum(snapshots.size_gib)::int as snapshots_gib
      from here join snapshots on volume_id = here.id and deleted_at is null group by here.project_id)
    select project_id, count(*)::int as volumes, sum(size_gib)::int as volumes_gib,
      coalesce(max(snapshots), 0) as snapshots, coalesce(max(snapshots_gib), 0) as snapshots_gib
    from here left join copies using (project_id) group by project_id order by project_id`.execute(db);
  return rows;
}

/** The address of every backend with its pool, HOST@NAME#POOL, by its address without, HOST@NAME. */
export async function poolAddresses(db: Queryable): Promise<ReadonlyMap<string, string>> {
  const hosts = await db.selectFrom('hosts').select(['name', 'volume_backends']).execute();
  return new Map(
    hosts.flatMap(({ name, volume_backends }) =>
      volume_backends.map((backend) => [`${name}@${backend.name}`, backendAddress(name, backend)] as const),
    ),
  );
}
