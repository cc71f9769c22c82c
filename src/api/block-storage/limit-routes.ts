import type { FastifyRequest } from 'fastify';
import type { ApiApp } from '#api/app.ts';
import { contextOf } from '#api/auth.ts';
import { has } from '#api/block-storage/microversions.ts';
import { mayDo } from '#api/block-storage/policy.ts';
import type { BlockStorageServices } from '#api/block-storage/services.ts';
import { Query } from '#api/query.ts';
import type { ProjectId } from '#core/ids.ts';
import { projectLimits, projectUse } from '#db/volume-quotas.ts';

/** Of every quota that is shown as an absolute limit: the names of the limit and of what is used of it. */
const absoluteLimits = {
  volumes: ['maxTotalVolumes', 'totalVolumesUsed'],
  snapshots: ['maxTotalSnapshots', 'totalSnapshotsUsed'],
  gigabytes: ['maxTotalVolumeGigabytes', 'totalGigabytesUsed'],
  backups: ['maxTotalBackups', 'totalBackupsUsed'],
  backup_gigabytes: ['maxTotalBackupGigabytes', 'totalBackupGigabytesUsed'],
} as const;

/** What a project may use, and uses. See Block Storage API v3 "Limits". */
export function addLimitRoutes(app: ApiApp, { db }: BlockStorageServices): void {
  app.get('/limits', async (request) => {
    const context = contextOf(request);
    const project = projectOf(request);
    const limits = await projectLimits(db, project);
    const use = mayDo(context, 'limits_extension:used_limits') ? await projectUse(db, project) : null;
    const absolute = Object.entries(absoluteLimits).flatMap(([resource, [limitName, useName]]) => [
      [limitName, limits[resource]],
      ...(use ? [[useName, use[resource] ?? 0]] : []),
    ]);
    return { limits: { rate: [], absolute: Object.fromEntries(absolute) } };
  });
}

/** The caller's project; an admin may name another. */
function projectOf(request: FastifyRequest): ProjectId {
  const { projectId, isAdmin } = contextOf(request);
  if (!isAdmin || !has(request, 'limits-of-projects')) return projectId;
  const query = new Query(request);
  return (query.text('project_id') ?? query.text('tenant_id') ?? projectId) as ProjectId;
}
