import type { FastifyRequest } from 'fastify';
import { type Feature, features, has } from '#api/compute/microversions.ts';
import { badRequest } from '#core/errors.ts';

/** Fields of a server in a request, and the microversion that brought them. */
const cameWith: Readonly<Record<string, Feature>> = {
  description: 'server-description',
  tags: 'tags-at-create',
  trusted_image_certificates: 'trusted-image-certificates',
  host: 'host-at-create',
  hypervisor_hostname: 'host-at-create',
  hostname: 'server-hostname',
};
/** Fields that went with a microversion. */
const wentWith: Readonly<Record<string, Feature>> = { personality: 'no-personality' };

/**
 * Refuses fields that the microversion does not have yet, or not any more. `besides`: of this request alone.
 * @throws bad-request (400).
 */
export function refuseFieldsBefore(
  request: FastifyRequest,
  fields: object,
  besides: Readonly<Record<string, Feature>> = {},
): void {
  const came = { ...cameWith, ...besides };
  for (const name of Object.keys(fields)) {
    const since = Object.hasOwn(came, name) ? came[name] : undefined;
    const until = Object.hasOwn(wentWith, name) ? wentWith[name] : undefined;
    if (since && !has(request, since)) throw unexpected(name, `came with microversion 2.${features[since]}`);
    if (until && has(request, until)) throw unexpected(name, `went with microversion 2.${features[until]}`);
  }
}

function unexpected(name: string, why: string): Error {
  return badRequest(`Additional properties are not allowed ('${name}' was unexpected): it ${why}.`);
}
