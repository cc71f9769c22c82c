import type { FastifyRequest } from 'fastify';
import type { ApiApp } from '#api/app.ts';
import type { RequestContext } from '#api/auth.ts';
import { type Feature, has } from '#api/compute/microversions.ts';
import { allowed } from '#api/compute/policy.ts';
import type { ComputeServices } from '#api/compute/services.ts';
import { refuseUnknownParameters } from '#api/compute/strict-query.ts';
import { Query } from '#api/query.ts';
import { badRequest, NightlatchError, shorten } from '#core/errors.ts';
import { serverUse } from '#db/server-list.ts';

/** Nothing is limited by number. */
const UNLIMITED = -1;

/** Quotas, and the microversion that took each away. */
const quotas: Readonly<Record<string, Feature | null>> = {
  instances: null,
  cores: null,
  ram: null,
  metadata_items: null,
  key_pairs: null,
  server_groups: null,
  server_group_members: null,
  injected_files: 'no-personality',
  injected_file_content_bytes: 'no-personality',
  injected_file_path_bytes: 'no-personality',
  floating_ips: 'no-network-limits',
  fixed_ips: 'no-network-limits',
  security_groups: 'no-network-limits',
  security_group_rules: 'no-network-limits',
};

/** Limits of a project, likewise. */
const limits: Readonly<Record<string, Feature | null>> = {
  maxTotalInstances: null,
  maxTotalCores: null,
  maxTotalRAMSize: null,
  maxServerMeta: null,
  maxTotalKeypairs: null,
  maxServerGroups: null,
  maxServerGroupMembers: null,
  maxImageMeta: 'no-image-limits',
  maxPersonality: 'no-personality',
  maxPersonalitySize: 'no-personality',
  maxTotalFloatingIps: 'no-network-limits',
  maxSecurityGroups: 'no-network-limits',
  maxSecurityGroupRules: 'no-network-limits',
  totalFloatingIpsUsed: 'no-network-limits',
  totalSecurityGroupsUsed: 'no-network-limits',
};

/** What a project may use, and uses. See Compute API "Limits" and "Quota sets". */
export function addLimitRoutes(app: ApiApp, { db }: ComputeServices): void {
  app.get('/limits', async (request) => {
    const context = allowed(request, 'os_compute_api:limits');
    const query = new Query(request);
    refuseUnknownParameters(request, query, ['reserved', 'tenant_id']);
    const used = await serverUse(db, ownProject(query.text('tenant_id'), context));
    const unused = Object.fromEntries(
      present(request, limits).map((name) => [name, name.startsWith('total') ? 0 : -1]),
    );
    const absolute = {
      ...unused,
      totalInstancesUsed: used.instances,
      totalCoresUsed: used.vcpus,
      totalRAMUsed: used.ramMib,
      totalServerGroupsUsed: 0,
    };
    return { limits: { rate: [], absolute } };
  });
  app.get('/os-quota-sets/:project', async (request) => {
    const context = allowed(request, 'os_compute_api:os-quota-sets:show');
    const project = ownProject((request.params as { project: string }).project, context);
    return { quota_set: { id: project, ...quotaSet(request) } };
  });
  app.get('/os-quota-sets/:project/defaults', async (request) => {
    allowed(request, 'os_compute_api:os-quota-sets:defaults');
    return { quota_set: { id: shorten((request.params as { project: string }).project), ...quotaSet(request) } };
  });
  app.get('/os-quota-sets/:project/detail', async (request) => {
    const context = allowed(request, 'os_compute_api:os-quota-sets:show');
    const project = ownProject((request.params as { project: string }).project, context);
    const use = await serverUse(db, project);
    const inUse: Readonly<Record<string, number>> = { instances: use.instances, cores: use.vcpus, ram: use.ramMib };
    const detail = present(request, quotas).map((name) => {
      return [name, { limit: UNLIMITED, in_use: inUse[name] ?? 0, reserved: 0 }];
    });
    return { quota_set: { id: project, ...Object.fromEntries(detail) } };
  });
}

function present(request: FastifyRequest, named: Readonly<Record<string, Feature | null>>): string[] {
  return Object.entries(named)
    .filter(([, until]) => until === null || !has(request, until))
    .map(([name]) => name);
}

function quotaSet(request: FastifyRequest): object {
  return Object.fromEntries(present(request, quotas).map((name) => [name, UNLIMITED]));
}

/** The project meant; of another than the caller's own only an admin may know. */
function ownProject(project: string | null, context: RequestContext): string {
  if (project === null || project === context.projectId) return context.projectId;
  if (!context.isAdmin) throw new NightlatchError('forbidden', { action: 'os_compute_api:os-quota-sets:show' });
  if (!/^[a-zA-Z0-9-]{1,255}$/.test(project)) throw badRequest(`${shorten(project, 64)} is no project id.`);
  return project;
}
