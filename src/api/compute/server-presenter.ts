import { createHash } from 'node:crypto';
import type { FastifyRequest } from 'fastify';
import { contextOf } from '#api/auth.ts';
import type { CreatedServer } from '#api/compute/create-server.ts';
import { presentEmbeddedFlavor } from '#api/compute/flavor-presenter.ts';
import { bookmarkTo, linksTo } from '#api/compute/links.ts';
import { has } from '#api/compute/microversions.ts';
import { mayDo } from '#api/compute/policy.ts';
import { presentTimeOrNull } from '#api/times.ts';
import { hostnameOf } from '#core/config-drive.ts';
import { apiStatus, powerStates } from '#core/server.ts';
import { instanceName, type Server } from '#db/servers.ts';
import type { Attachment } from '#db/volume-attachments.ts';

/** States in which Nova shows how far a server has come. */
const progressStates = new Set(['ACTIVE', 'BUILD', 'REBUILD', 'RESIZE', 'VERIFY_RESIZE', 'MIGRATING']);

/** A server as a list without details shows it. */
export function presentServerSummary(request: FastifyRequest, publicUrl: string | null, server: Server): object {
  return { id: server.id, name: server.name, links: linksTo(request, publicUrl, `servers/${server.id}`) };
}

/** A server in full, with what the caller's roles and microversion let it see. See Compute API "Show Server Details". */
export function presentServer(
  request: FastifyRequest,
  publicUrl: string | null,
  server: Server,
  attached: readonly Attachment[],
): object {
  const status = apiStatus(server.vm_state, server.task_state);
  return {
    id: server.id,
    name: server.name,
    status,
    tenant_id: server.project_id,
    user_id: server.user_id,
    metadata: server.metadata,
    hostId: hostIdOf(server),
    image:
      server.image_id === null
        ? ''
        : { id: server.image_id, links: bookmarkTo(request, publicUrl, `images/${server.image_id}`) },
    flavor: has(request, 'server-flavor-embedded')
      ? presentEmbeddedFlavor(server.flavor)
      : { id: server.flavor.id, links: bookmarkTo(request, publicUrl, `flavors/${server.flavor.id}`) },
    created: toSeconds(server.created_at),
    updated: toSeconds(server.updated_at),
    addresses: {},
    accessIPv4: server.access_ipv4 ?? '',
    accessIPv6: server.access_ipv6 ?? '',
    links: linksTo(request, publicUrl, `servers/${server.id}`),
    'OS-DCF:diskConfig': server.disk_config,
    // Nova shows a fault only in ERROR. A server whose start or resume failed is SHUTOFF or SUSPENDED here, with its
    // data safe; its user has to be told why all the same.
    ...(server.fault === null ? {} : { fault: server.fault }),
    ...(progressStates.has(status) ? { progress: server.vm_state === 'active' ? 100 : 0 } : {}),
    'OS-EXT-AZ:availability_zone': server.host === null ? '' : 'nova',
    config_drive: server.config_drive ? 'True' : '',
    key_name: server.key_name,
    'OS-SRV-USG:launched_at': presentTimeOrNull(server.launched_at),
    'OS-SRV-USG:terminated_at': presentTimeOrNull(server.terminated_at),
    'OS-EXT-STS:task_state': server.task_state,
    'OS-EXT-STS:vm_state': server.vm_state,
    'OS-EXT-STS:power_state': powerStates[server.power_state],
    'os-extended-volumes:volumes_attached': attached.map(({ volume_id: id, delete_on_termination }) => ({
      id,
      ...(has(request, 'attached-deleted-shown') ? { delete_on_termination } : {}),
    })),
    ...extendedAttributes(request, server),
    ...laterFields(request, server),
  };
}

function extendedAttributes(request: FastifyRequest, server: Server): object {
  const hostname = { 'OS-EXT-SRV-ATTR:hostname': server.hostname ?? hostnameOf(server.name) };
  if (!mayDo(contextOf(request), 'os_compute_api:os-extended-server-attributes')) {
    return has(request, 'server-hostname') ? hostname : {};
  }
  return {
    'OS-EXT-SRV-ATTR:host': server.host,
    'OS-EXT-SRV-ATTR:instance_name': instanceName(server),
    'OS-EXT-SRV-ATTR:hypervisor_hostname': server.host,
    // The only host is the one that answers.
    ...(has(request, 'server-host-status') ? { host_status: server.host === null ? '' : 'UP' } : {}),
    ...(has(request, 'server-extended-attributes')
      ? {
          ...hostname,
          'OS-EXT-SRV-ATTR:reservation_id': server.reservation_id,
          'OS-EXT-SRV-ATTR:launch_index': server.launch_index,
          'OS-EXT-SRV-ATTR:kernel_id': '',
          'OS-EXT-SRV-ATTR:ramdisk_id': '',
          'OS-EXT-SRV-ATTR:root_device_name': '/dev/vda',
          'OS-EXT-SRV-ATTR:user_data': server.user_data,
        }
      : {}),
  };
}

function laterFields(request: FastifyRequest, server: Server): object {
  return {
    ...(has(request, 'server-locked') ? { locked: server.locked_by !== null } : {}),
    ...(has(request, 'server-description') ? { description: server.description } : {}),
    ...(has(request, 'server-tags') ? { tags: server.tags } : {}),
    ...(has(request, 'trusted-image-certificates') ? { trusted_image_certificates: null } : {}),
    ...(has(request, 'locked-reason') ? { locked_reason: server.locked_reason } : {}),
  };
}

/** Tells servers of one project on one host from those on another, without naming the host. */
export function hostIdOf(server: Server): string {
  if (server.host === null) return '';
  return createHash('sha224').update(`${server.project_id}${server.host}`).digest('hex');
}

/** Nova's other spelling of a time: with a zone and without fraction. */
function toSeconds(time: Date): string {
  return `${time.toISOString().slice(0, 19)}Z`;
}

/** What a client is told of a server it has just asked for. */
export function presentCreated(
  request: FastifyRequest,
  publicUrl: string | null,
  { server, adminPass, securityGroups }: CreatedServer,
) {
  return {
    id: server.id,
    links: linksTo(request, publicUrl, `servers/${server.id}`),
    'OS-DCF:diskConfig': server.disk_config,
    security_groups: securityGroups.map((name) => ({ name })),
    adminPass,
  };
}
