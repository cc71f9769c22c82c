import type { ApiApp } from '#api/app.ts';
import { contextOf } from '#api/auth.ts';
import { serviceHost } from '#api/block-storage/backend-routes.ts';
import { AVAILABILITY_ZONE } from '#api/block-storage/create-volume.ts';
import { has } from '#api/block-storage/microversions.ts';
import { allowed } from '#api/block-storage/policy.ts';
import type { BlockStorageServices } from '#api/block-storage/services.ts';
import { Query } from '#api/query.ts';
import { presentTime } from '#api/times.ts';
import { NightlatchError, shorten } from '#core/errors.ts';
import { isUp, listHosts } from '#db/hosts.ts';
import { type HostVolumes, listPools, volumesOnHost } from '#db/volume-pools.ts';

/** One of the processes that Cinder would have: a scheduler, and one process for each backend. */
type Service = {
  readonly binary: 'cinder-scheduler' | 'cinder-volume';
  readonly host: string;
  readonly isUp: boolean;
  readonly seenAt: Date;
};

/** Hosts as Cinder shows them: services, hosts and the availability zone. */
export function addServiceRoutes(app: ApiApp, { db }: BlockStorageServices): void {
  app.get('/os-availability-zone', async (request) => {
    contextOf(request);
    return { availabilityZoneInfo: [{ zoneName: AVAILABILITY_ZONE, zoneState: { available: true } }] };
  });
  app.get('/os-services', async (request) => {
    allowed(request, 'volume_extension:services:index');
    const query = new Query(request);
    const [binary, host] = [query.text('binary'), query.text('host')];
    const services = (await listServices()).filter(
      // A host's name stands for all of its backends.
      (service) =>
        (binary === null || binary === service.binary) &&
        (host === null || [service.host, machineOf(service)].includes(host)),
    );
    const isClustered = has(request, 'clusters');
    const hasBackendState = has(request, 'backend-state');
    return { services: services.map((service) => present(service, { isClustered, hasBackendState })) };
  });
  app.get('/os-hosts', async (request) => {
    allowed(request, 'volume_extension:hosts');
    const zone = new Query(request).text('zone') ?? AVAILABILITY_ZONE;
    const services = zone === AVAILABILITY_ZONE || zone === '' ? await listServices() : [];
    return { hosts: services.map(presentHost) };
  });
  app.get('/os-hosts/:host', async (request) => {
    allowed(request, 'volume_extension:hosts');
    const { host } = request.params as { host: string };
    const pool = (await listPools(db)).find((one) => serviceHost(one) === host);
    if (!pool) throw new NightlatchError('not-there', { reason: `Host ${shorten(host)} could not be found.` });
    return { host: presentHostVolumes(host, await volumesOnHost(db, pool.host, pool.backend.name)) };
  });

  async function listServices(): Promise<Service[]> {
    const schedulers = (await listHosts(db)).map((host) => {
      return { binary: 'cinder-scheduler' as const, host: host.name, isUp: isUp(host), seenAt: host.seen_at };
    });
    const backends = (await listPools(db)).map((pool) => {
      return { binary: 'cinder-volume' as const, host: serviceHost(pool), isUp: pool.isUp, seenAt: pool.seenAt };
    });
    return [...schedulers, ...backends];
  }
}

function machineOf({ host }: Service): string {
  return host.split('@')[0] ?? host;
}

function present(
  service: Service,
  { isClustered, hasBackendState }: { isClustered: boolean; hasBackendState: boolean },
): object {
  const isVolume = service.binary === 'cinder-volume';
  return {
    binary: service.binary,
    host: service.host,
    zone: AVAILABILITY_ZONE,
    status: 'enabled',
    state: service.isUp ? 'up' : 'down',
    updated_at: presentTime(service.seenAt),
    disabled_reason: null,
    ...(isVolume ? { replication_status: 'disabled', active_backend_id: null, frozen: false } : {}),
    ...(isVolume && hasBackendState ? { backend_state: service.isUp ? 'up' : 'down' } : {}),
    ...(isClustered ? { cluster: null } : {}),
  };
}

function presentHost({ host, binary, isUp: isAlive, seenAt }: Service): object {
  return {
    host_name: host,
    service: binary,
    zone: AVAILABILITY_ZONE,
    'service-status': isAlive ? 'available' : 'unavailable',
    'service-state': 'enabled',
    'last-update': presentTime(seenAt),
  };
}

/** The sum of all projects, then each of them; numbers as text, as Cinder. */
function presentHostVolumes(host: string, projects: readonly HostVolumes[]): object[] {
  const sum = (field: Exclude<keyof HostVolumes, 'project_id'>) => projects.reduce((n, one) => n + one[field], 0);
  const total: HostVolumes = {
    project_id: '(total)',
    volumes: sum('volumes'),
    volumes_gib: sum('volumes_gib'),
    snapshots: sum('snapshots'),
    snapshots_gib: sum('snapshots_gib'),
  };
  return [total, ...projects].map((one) => ({
    resource: {
      host,
      project: one.project_id,
      volume_count: String(one.volumes),
      total_volume_gb: String(one.volumes_gib),
      snapshot_count: String(one.snapshots),
      total_snapshot_gb: String(one.snapshots_gib),
    },
  }));
}
