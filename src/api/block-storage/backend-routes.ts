import type { FastifyRequest } from 'fastify';
import type { ApiApp } from '#api/app.ts';
import { flagFrom } from '#api/block-storage/fields.ts';
import { has } from '#api/block-storage/microversions.ts';
import { allowed } from '#api/block-storage/policy.ts';
import type { BlockStorageServices } from '#api/block-storage/services.ts';
import { Query } from '#api/query.ts';
import { presentTime } from '#api/times.ts';
import { NightlatchError, shorten } from '#core/errors.ts';
import { backendAddress, capabilitiesOf } from '#core/volume-backend.ts';
import { listPools, type Pool } from '#db/volume-pools.ts';
import { findVolumeTypeNamed, type VolumeType } from '#db/volume-types.ts';

/** Places for volumes: pools as the scheduler sees them, and what each backend can do. Each backend is one pool. */
export function addBackendRoutes(app: ApiApp, { db }: BlockStorageServices): void {
  app.get('/scheduler-stats/get_pools', async (request) => {
    allowed(request, 'scheduler_extension:scheduler_stats:get_pools');
    const query = new Query(request);
    const isDetailed = flagFrom('detail', query.text('detail'));
    const pools = (await listPools(db)).filter((pool) => pool.isUp).filter(await poolFilter(request, query));
    return { pools: pools.map((pool) => (isDetailed ? presentPool(pool) : { name: nameOf(pool) })) };
  });
  app.get('/capabilities/:host', async (request) => {
    allowed(request, 'volume_extension:capabilities');
    const { host } = request.params as { host: string };
    const pool = (await listPools(db)).find((one) => nameOf(one) === host || serviceHost(one) === host);
    if (!pool) throw new NightlatchError('not-there', { reason: `Can't find service: ${shorten(host)}` });
    return presentCapabilities(pool);
  });

  /** Names are looked at from 3.28 on, volume types from 3.35 on. */
  async function poolFilter(request: FastifyRequest, query: Query): Promise<(pool: Pool) => boolean> {
    const name = has(request, 'pool-filter') ? query.text('name') : null;
    const typeName = has(request, 'pool-type-filter') ? query.text('volume_type') : null;
    const type = typeName === null ? null : await findVolumeTypeNamed(db, typeName, null);
    if (typeName !== null && !type) return () => false;
    return (pool) => (name === null || nameOf(pool) === name) && (!type || suits(pool, type));
  }
}

/** How a backend is called as a service: its address without the pool. */
export function serviceHost({ host, backend }: Pool): string {
  return `${host}@${backend.name}`;
}

function nameOf({ host, backend }: Pool): string {
  return backendAddress(host, backend);
}

function suits({ backend }: Pool, { extra_specs }: VolumeType): boolean {
  const capabilities = capabilitiesOf(backend);
  return Object.entries(extra_specs).every(([key, wanted]) => {
    const name = key.replace(/^capabilities:/, '');
    return name.includes(':') || wanted === null || capabilities[name] === wanted;
  });
}

function presentPool(pool: Pool): object {
  const { backend, usedGib, seenAt } = pool;
  const time = presentTime(seenAt);
  return {
    name: nameOf(pool),
    capabilities: {
      ...capabilitiesOf(backend),
      pool_name: backend.volumeBackendName,
      total_capacity_gb: backend.capacityGib,
      free_capacity_gb: Math.max(0, backend.capacityGib - usedGib),
      allocated_capacity_gb: usedGib,
      reserved_percentage: 0,
      thin_provisioning_support: false,
      thick_provisioning_support: true,
      multiattach: false,
      QoS_support: false,
      backend_state: 'up',
      timestamp: time,
      updated: time,
    },
  };
}

function presentCapabilities(pool: Pool): object {
  return {
    ...capabilitiesOf(pool.backend),
    namespace: `OS::Storage::Capabilities::${serviceHost(pool)}`,
    pool_name: pool.backend.volumeBackendName,
    display_name: null,
    description: null,
    visibility: null,
    replication_targets: [],
    properties: {},
  };
}
