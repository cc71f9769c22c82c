import { NightlatchError } from '#core/errors.ts';

/** What is limited per project, and by how much when nothing else is said. Sizes in GiB; -1: not at all. */
export const defaultQuotas = {
  volumes: 10,
  snapshots: 10,
  gigabytes: 1000,
  backups: 10,
  backup_gigabytes: 1000,
  per_volume_gigabytes: -1,
  groups: 10,
} as const satisfies Record<string, number>;
export type QuotaResource = keyof typeof defaultQuotas;

/** What is limited per project and volume type as well, as `volumes_TYPE`. Not limited unless somebody says so. */
export const typeResources = ['volumes', 'gigabytes', 'snapshots'] as const satisfies readonly QuotaResource[];

/** Of every resource the limit, or how much there is of it. */
export type Amounts = Readonly<Record<string, number>>;

/** What a request would add to a project. Sizes in GiB. */
export type QuotaRequest = {
  readonly kind: 'volume' | 'snapshot' | 'backup';
  /** How much more of each resource; what is less by it never fails. */
  readonly more: Partial<Readonly<Record<Exclude<QuotaResource, 'per_volume_gigabytes' | 'groups'>, number>>>;
  /** The name of the volume's type, whose own quotas hold too; null: it has none. */
  readonly volumeType: string | null;
  /** What the volume will be, where a volume is created or extended. */
  readonly volumeGib?: number;
};

/**
 * Lets a request pass that stays within every limit. @throws over-quota (413) in Cinder's words, of several the one that
 * Cinder names: the first in the order of names.
 */
export function judgeQuota(request: QuotaRequest, limits: Amounts, inUse: Amounts): void {
  const largest = limits.per_volume_gigabytes ?? -1;
  if (request.volumeGib !== undefined && largest >= 0 && request.volumeGib > largest) {
    throw over(`Requested volume size ${request.volumeGib}G is larger than maximum allowed limit ${largest}G.`);
  }
  const more = withTypes(request);
  for (const resource of Object.keys(more).sort()) {
    const [asked, limit, used] = [more[resource] ?? 0, limits[resource] ?? -1, inUse[resource] ?? 0];
    if (asked > 0 && limit >= 0 && used + asked > limit) throw over(sentence(request, resource, asked, limit, used));
  }
}

function withTypes({ more, volumeType }: QuotaRequest): Record<string, number> {
  if (volumeType === null) return { ...more };
  const ofType = typeResources.flatMap((resource) => {
    const asked = more[resource];
    return asked === undefined ? [] : [[`${resource}_${volumeType}`, asked] as const];
  });
  return { ...more, ...Object.fromEntries(ofType) };
}

function sentence({ kind }: QuotaRequest, resource: string, asked: number, limit: number, used: number): string {
  if (resource === 'backup_gigabytes') {
    return `Requested backup exceeds allowed Backup gigabytes quota. Requested ${asked}G, quota is ${limit}G and ${used}G has been consumed.`;
  }
  if (resource.startsWith('gigabytes')) {
    return `Requested volume or snapshot exceeds allowed ${resource} quota. Requested ${asked}G, quota is ${limit}G and ${used}G has been consumed.`;
  }
  if (kind === 'volume') {
    return `Maximum number of volumes allowed (${limit}) exceeded for quota '${resource}'.`;
  }
  return `Maximum number of ${kind}s allowed (${limit}) exceeded`;
}

function over(reason: string): NightlatchError {
  return new NightlatchError('over-quota', { reason });
}
