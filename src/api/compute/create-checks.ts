import type { FastifyRequest } from 'fastify';
import { allowed } from '#api/compute/policy.ts';
import type { CreateServer } from '#api/compute/server-schemas.ts';
import { badRequest } from '#core/errors.ts';

/** The availability zone that every host is in. */
export const AVAILABILITY_ZONE = 'nova';

/** Refuses what a client may ask of Nova but cannot get here; nothing asked for is passed over in silence. */
export function refuseUnserved(body: CreateServer, request: FastifyRequest): void {
  const { server: asked } = body;
  const hints = { ...body['OS-SCH-HNT:scheduler_hints'], ...body['os:scheduler_hints'] };
  if ('group' in hints) throw badRequest(`Instance group ${String(hints.group).slice(0, 64)} could not be found.`);
  if (asked.availability_zone !== undefined && asked.availability_zone !== AVAILABILITY_ZONE) {
    throw badRequest('The requested availability zone is not available');
  }
  if (asked.host !== undefined || asked.hypervisor_hostname !== undefined) {
    allowed(request, 'compute:servers:create:requested_destination');
    throw badRequest('Choosing the host of a new server is not served. Leave out host and hypervisor_hostname.');
  }
  if ((asked.trusted_image_certificates ?? []).length > 0) {
    throw badRequest('Image certificates are not checked here. Leave out trusted_image_certificates.');
  }
  if ((asked.personality ?? []).length > 0) {
    throw badRequest('Files are not injected into servers. Bring them in by user_data.');
  }
}
