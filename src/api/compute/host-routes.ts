import type { FastifyRequest } from 'fastify';
import type { ApiApp } from '#api/app.ts';
import { AVAILABILITY_ZONE } from '#api/compute/create-checks.ts';
import {
  hostUuid,
  presentHypervisor,
  presentHypervisorSummary,
  presentService,
  presentZoneService,
} from '#api/compute/host-presenter.ts';
import { allowed } from '#api/compute/policy.ts';
import type { ComputeServices } from '#api/compute/services.ts';
import { Query } from '#api/query.ts';
import { NightlatchError, shorten } from '#core/errors.ts';
import { type Host, hostUse, listHosts } from '#db/hosts.ts';
import { serversOnHost } from '#db/servers.ts';

/** Hosts as Compute shows them: services, hypervisors and availability zones. */
export function addHostRoutes(app: ApiApp, { db }: ComputeServices): void {
  app.get('/os-availability-zone', async (request) => {
    allowed(request, 'os_compute_api:os-availability-zone:list');
    return { availabilityZoneInfo: [{ zoneName: AVAILABILITY_ZONE, zoneState: { available: true }, hosts: null }] };
  });
  app.get('/os-availability-zone/detail', async (request) => {
    allowed(request, 'os_compute_api:os-availability-zone:detail');
    const hosts = (await listHosts(db)).map((host) => [host.name, { 'nova-compute': presentZoneService(host) }]);
    const zone = { zoneName: AVAILABILITY_ZONE, zoneState: { available: true }, hosts: Object.fromEntries(hosts) };
    return { availabilityZoneInfo: [zone] };
  });
  app.get('/os-services', async (request) => {
    allowed(request, 'os_compute_api:os-services:list');
    const query = new Query(request);
    const [binary, host] = [query.text('binary') ?? undefined, query.text('host') ?? undefined];
    const hosts = (await listHosts(db)).filter(({ name }) => host === undefined || name === host);
    const shown = binary === undefined || binary === 'nova-compute' ? hosts : [];
    return { services: shown.map((one, i) => presentService(request, one, i + 1)) };
  });
  app.get('/os-hypervisors', async (request) => {
    allowed(request, 'os_compute_api:os-hypervisors:list');
    return { hypervisors: (await listHosts(db)).map((host, i) => presentHypervisorSummary(request, host, i + 1)) };
  });
  app.get('/os-hypervisors/detail', async (request) => {
    allowed(request, 'os_compute_api:os-hypervisors:list');
    const hosts = await listHosts(db);
    return { hypervisors: await Promise.all(hosts.map((host, i) => detail(host, i + 1, request))) };
  });
  app.get('/os-hypervisors/:id', async (request) => {
    allowed(request, 'os_compute_api:os-hypervisors:list');
    const { id } = request.params as { id: string };
    const hosts = await listHosts(db);
    const at = hosts.findIndex((host, i) => String(i + 1) === id || hostUuid(host) === id);
    const host = hosts[at];
    if (!host)
      throw new NightlatchError('not-there', { reason: `Hypervisor with ID '${shorten(id)}' could not be found.` });
    return { hypervisor: await detail(host, at + 1, request) };
  });

  async function detail(host: Host, number: number, request: FastifyRequest) {
    const [use, servers] = await Promise.all([hostUse(db, host.name), serversOnHost(db, host.name)]);
    return presentHypervisor(request, host, number, { ...use, servers: servers.length });
  }
}
