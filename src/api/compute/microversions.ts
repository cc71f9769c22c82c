import type { FastifyRequest } from 'fastify';
import { microversionFrom, notInMicroversion } from '#api/microversions.ts';

/** Microversions are 2.N; only N is kept. */
export const MIN_MICROVERSION = 1;
/** The highest for which every endpoint served here answers as Compute API v2.1 says. */
export const MAX_MICROVERSION = 93;

const served = { service: 'compute', major: 2, min: MIN_MICROVERSION, max: MAX_MICROVERSION } as const;

/** What a request may use, or an answer shows, from which microversion. See "REST API Version History" of Compute. */
export const features = {
  'keypair-type': 2,
  'server-extended-attributes': 3,
  'attached-deleted-shown': 3,
  'remote-consoles': 6,
  'no-access-to-public-flavor': 7,
  'server-locked': 9,
  'keypair-of-user': 10,
  'service-forced-down': 11,
  'server-host-status': 16,
  'server-description': 19,
  'deleted-instance-actions': 21,
  'server-tags': 26,
  'hypervisor-cpu-info-object': 28,
  'keypair-paging': 35,
  'no-network-limits': 36,
  'networks-required': 37,
  'unknown-status-refused': 38,
  'no-image-limits': 39,
  'image-id-in-body': 45,
  'server-flavor-embedded': 47,
  'attachment-tag': 49,
  'tags-at-create': 52,
  'instance-action-events': 51,
  'uuid-of-services': 53,
  'rebuild-key-name': 54,
  'flavor-description': 55,
  'no-personality': 57,
  'rebuild-user-data': 57,
  'instance-action-paging': 58,
  'flavor-extra-specs-shown': 61,
  'instance-action-hosts': 62,
  'trusted-image-certificates': 63,
  'changes-before': 66,
  'server-groups-shown': 71,
  'device-volume-type': 67,
  'locked-reason': 73,
  'host-at-create': 74,
  'attachment-tag-shown': 70,
  'strict-queries': 75,
  'rebuild-shows-all': 75,
  'delete-on-termination': 79,
  'instance-action-details': 84,
  'attachment-update': 85,
  'extra-specs-checked': 86,
  'hypervisor-short': 88,
  'attachment-ids': 89,
  'server-hostname': 90,
  'keypair-import-only': 92,
  'rebuild-boot-volume': 93,
} as const satisfies Record<string, number>;
export type Feature = keyof typeof features;

/** The header that Compute had before there was one for all services; an answer carries both. */
export const LEGACY_MICROVERSION_HEADER = 'X-OpenStack-Nova-API-Version';

/** Whether the microversion the client asked for has this. */
export function has(request: Pick<FastifyRequest, 'microversion'>, feature: Feature): boolean {
  return request.microversion >= features[feature];
}

/** Lets a method pass that came with this feature. @throws not-there (404), as for a method that does not exist. */
export function requireFeature(request: FastifyRequest, feature: Feature): void {
  if (!has(request, feature)) throw notInMicroversion(served, request);
}

/** Lets a method pass that went with this feature. @throws not-there (404). */
export function requireNotYet(request: FastifyRequest, feature: Feature): void {
  if (has(request, feature)) throw notInMicroversion(served, request);
}

/**
 * N of the microversion 2.N that a request's headers ask for; without any, the least.
 *
 * @throws bad-request when it is no version; not-acceptable-version (406) when it is not served.
 */
export function parseMicroversion(headers: {
  readonly current: string | null;
  readonly legacy: string | null;
}): number {
  return microversionFrom(headers.current, served, headers.legacy);
}
