import type { FastifyRequest } from 'fastify';

/**
 * The address under which the client reaches the API, without a slash at the end: the configured one, or else the one
 * the client used. Behind a proxy it must be configured; forwarding headers are not believed.
 */
export function publicUrlOf(request: FastifyRequest, configured: string | null): string {
  if (configured !== null) return configured.replace(/\/+$/, '');
  return `${request.protocol}://${request.host}`;
}
