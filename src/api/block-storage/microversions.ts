import type { FastifyRequest } from 'fastify';
import { notInMicroversion } from '#api/microversions.ts';

/** Microversions are 3.N; only N is kept. A request that names none is of the least. */
export const MIN_MICROVERSION = 0;
/** The highest for which every endpoint served here answers as Block Storage API v3 says. */
export const MAX_MICROVERSION = 70;

export const servedMicroversions = {
  service: 'volume',
  major: 3,
  min: MIN_MICROVERSION,
  max: MAX_MICROVERSION,
} as const;

/** What a request may use, or an answer shows, from which microversion. See "REST API Version History" of Cinder. */
export const features = {
  'upload-visibility': 1,
  messages: 3,
  'messages-pagination': 5,
  clusters: 7,
  'backup-update': 9,
  'volume-summary': 12,
  groups: 13,
  'provider-id': 21,
  'snapshot-metadata-filter': 22,
  'volume-delete-force': 23,
  attachments: 27,
  'pool-filter': 28,
  'resource-filters': 33,
  'pool-type-filter': 35,
  'summary-metadata': 36,
  'limits-of-projects': 39,
  revert: 40,
  'snapshot-user': 41,
  'extend-in-use': 42,
  'backup-metadata': 43,
  'attachment-complete': 44,
  'counts-in-lists': 45,
  'create-from-backup': 47,
  'shared-targets': 48,
  'backend-state': 49,
  multiattach: 50,
  'volume-type-filter': 52,
  'strict-volumes': 53,
  'attachment-mode': 54,
  'transfer-snapshots': 55,
  'transfer-history': 57,
  'time-filters': 60,
  'cluster-name': 61,
  'default-types': 62,
  'volume-type-id': 63,
  'encryption-key-id': 64,
  'consumes-quota': 65,
  'snapshot-in-use': 66,
  reimage: 68,
  'encrypted-transfer': 70,
} as const satisfies Record<string, number>;
export type Feature = keyof typeof features;

/** Whether the microversion the client asked for has this. */
export function has(request: Pick<FastifyRequest, 'microversion'>, feature: Feature): boolean {
  return request.microversion >= features[feature];
}

/** Lets a method pass that came with this feature. @throws not-there (404), as for a method that does not exist. */
export function requireFeature(request: FastifyRequest, feature: Feature): void {
  if (!has(request, feature)) throw notInMicroversion(servedMicroversions, request);
}
