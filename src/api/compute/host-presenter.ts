import { createHash } from 'node:crypto';
import type { FastifyRequest } from 'fastify';
import { AVAILABILITY_ZONE } from '#api/compute/create-checks.ts';
import { has } from '#api/compute/microversions.ts';
import { presentTime } from '#api/times.ts';
import { splitAddress } from '#core/address.ts';
import { type Host, type HostUse, isUp } from '#db/hosts.ts';

const stateOf = (host: Host) => ({ status: 'enabled', state: isUp(host) ? 'up' : 'down' }) as const;

/** A stable id made of the host's name, in the form of a UUID (version 8, RFC 9562 section 5.8). */
export function hostUuid({ name }: Pick<Host, 'name'>): string {
  const hex = createHash('sha256').update(`host ${name}`).digest('hex');
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-8${hex.slice(13, 16)}-8${hex.slice(17, 20)}-${hex.slice(20, 32)}`;
}

/** A host in the detailed list of availability zones. */
export function presentZoneService(host: Host): object {
  return { available: isUp(host), active: true, updated_at: presentTime(host.seen_at) };
}

/** A host as the service that runs on it. `number` identifies it before 2.53. */
export function presentService(request: FastifyRequest, host: Host, number: number): object {
  return {
    id: idOf(request, host, number),
    binary: 'nova-compute',
    host: host.name,
    zone: AVAILABILITY_ZONE,
    ...stateOf(host),
    updated_at: presentTime(host.seen_at),
    disabled_reason: null,
    ...(has(request, 'service-forced-down') ? { forced_down: false } : {}),
  };
}

export function presentHypervisorSummary(request: FastifyRequest, host: Host, number: number): object {
  return { id: idOf(request, host, number), hypervisor_hostname: host.name, ...stateOf(host) };
}

/** A host as a hypervisor, with what its servers take of it. */
export function presentHypervisor(
  request: FastifyRequest,
  host: Host,
  number: number,
  use: HostUse & { readonly servers: number },
): object {
  return {
    ...presentHypervisorSummary(request, host, number),
    hypervisor_type: 'QEMU',
    // Hosts do not report the version of QEMU.
    hypervisor_version: 0,
    host_ip: host.address === null ? '127.0.0.1' : splitAddress(host.address).address,
    service: { id: idOf(request, host, number), host: host.name, disabled_reason: null },
    ...(has(request, 'hypervisor-short') ? { uptime: null } : resources(request, host, use)),
  };
}

function resources(request: FastifyRequest, host: Host, use: HostUse & { readonly servers: number }): object {
  const freeDiskGib = host.disk_gib - use.diskGib;
  return {
    vcpus: host.vcpus,
    vcpus_used: use.vcpus,
    memory_mb: host.memory_mib,
    memory_mb_used: use.memoryMib,
    free_ram_mb: host.memory_mib - use.memoryMib,
    local_gb: host.disk_gib,
    local_gb_used: use.diskGib,
    free_disk_gb: freeDiskGib,
    disk_available_least: freeDiskGib,
    running_vms: use.servers,
    current_workload: 0,
    cpu_info: has(request, 'hypervisor-cpu-info-object') ? {} : '',
  };
}

function idOf(request: FastifyRequest, host: Host, number: number): number | string {
  return has(request, 'uuid-of-services') ? hostUuid(host) : number;
}
