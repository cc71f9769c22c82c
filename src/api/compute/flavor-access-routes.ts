import type { ApiApp } from '#api/app.ts';
import { getFlavor } from '#api/compute/flavor-routes.ts';
import { FlavorAction } from '#api/compute/flavor-schemas.ts';
import { has } from '#api/compute/microversions.ts';
import { allowed } from '#api/compute/policy.ts';
import type { ComputeServices } from '#api/compute/services.ts';
import { NightlatchError } from '#core/errors.ts';
import type { ProjectId } from '#core/ids.ts';
import type { Queryable } from '#db/database.ts';
import { flavorProjects, grantFlavor, revokeFlavor } from '#db/flavors.ts';

/** Which projects may use a flavor that is not public. See Compute API "Flavors access". */
export function addFlavorAccessRoutes(app: ApiApp, { db }: ComputeServices): void {
  app.get('/flavors/:id/os-flavor-access', async (request) => {
    const context = allowed(request, 'os_compute_api:os-flavor-access');
    const flavor = await getFlavor(db, (request.params as { id: string }).id, context);
    if (flavor.is_public) {
      throw new NightlatchError('not-there', { reason: 'Access list not available for public flavors.' });
    }
    return await accessList(db, flavor.id);
  });
  app.post('/flavors/:id/action', { schema: { body: FlavorAction } }, async (request) => {
    const { id } = request.params as { id: string };
    const { body } = request;
    if ('addTenantAccess' in body) {
      const context = allowed(request, 'os_compute_api:os-flavor-access:add_tenant_access');
      const flavor = await getFlavor(db, id, context);
      if (flavor.is_public && has(request, 'no-access-to-public-flavor')) {
        throw new NightlatchError('conflict', { reason: 'Can not add access to a public flavor.' });
      }
      await grant(db, flavor.id, body.addTenantAccess.tenant as ProjectId);
      return await accessList(db, flavor.id);
    }
    const context = allowed(request, 'os_compute_api:os-flavor-access:remove_tenant_access');
    const flavor = await getFlavor(db, id, context);
    await revoke(db, flavor.id, body.removeTenantAccess.tenant as ProjectId);
    return await accessList(db, flavor.id);
  });
}

async function grant(db: Queryable, id: string, project: ProjectId): Promise<void> {
  if (await grantFlavor(db, id, project)) return;
  throw new NightlatchError('conflict', {
    reason: `Flavor access already exists for flavor ${id} and project ${project} combination.`,
  });
}

async function revoke(db: Queryable, id: string, project: ProjectId): Promise<void> {
  if (await revokeFlavor(db, id, project)) return;
  throw new NightlatchError('not-there', {
    reason: `Flavor access not found for ${id} / ${project} combination.`,
  });
}

async function accessList(db: Queryable, id: string): Promise<object> {
  const projects = await flavorProjects(db, id);
  return { flavor_access: projects.map((project) => ({ flavor_id: id, tenant_id: project })) };
}
