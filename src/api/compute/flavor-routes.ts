import { randomUUID } from 'node:crypto';
import type { FastifyRequest } from 'fastify';
import type { ApiApp } from '#api/app.ts';
import type { RequestContext } from '#api/auth.ts';
import { selectFlavors } from '#api/compute/flavor-list.ts';
import { presentFlavor, presentFlavorSummary } from '#api/compute/flavor-presenter.ts';
import { CreateFlavor, UpdateFlavor } from '#api/compute/flavor-schemas.ts';
import { nextPage } from '#api/compute/links.ts';
import { has, requireFeature } from '#api/compute/microversions.ts';
import { allowed } from '#api/compute/policy.ts';
import type { ComputeServices } from '#api/compute/services.ts';
import { isStorableText, toBoolean, toInteger } from '#api/fields.ts';
import { badRequest, NightlatchError, shorten } from '#core/errors.ts';
import type { Queryable } from '#db/database.ts';
import { deleteFlavor, describeFlavor, type Flavor, findFlavor, insertFlavor, type NewFlavor } from '#db/flavors.ts';

/** Flavors: list, show, create, update, delete. See Compute API "Flavors". */
export function addFlavorRoutes(app: ApiApp, { db, publicUrl }: ComputeServices): void {
  app.get('/flavors', async (request) => {
    const { flavors, limit } = await selectFlavors(request, db);
    const next = nextPage(request, publicUrl, { path: 'flavors', limit, ids: flavors.map(({ id }) => id) });
    return {
      flavors: flavors.map((flavor) => presentFlavorSummary(request, publicUrl, flavor)),
      ...(next.length > 0 ? { flavors_links: next } : {}),
    };
  });
  app.get('/flavors/detail', async (request) => {
    const { flavors, limit } = await selectFlavors(request, db);
    const next = nextPage(request, publicUrl, { path: 'flavors/detail', limit, ids: flavors.map(({ id }) => id) });
    return {
      flavors: flavors.map((flavor) => presentFlavor(request, publicUrl, flavor)),
      ...(next.length > 0 ? { flavors_links: next } : {}),
    };
  });
  app.get<{ Params: { id: string } }>('/flavors/:id', async (request) => {
    const context = allowed(request, 'os_compute_api:flavors');
    return { flavor: presentFlavor(request, publicUrl, await getFlavor(db, request.params.id, context)) };
  });
  app.post('/flavors', { schema: { body: CreateFlavor } }, async (request) => {
    allowed(request, 'os_compute_api:os-flavor-manage:create');
    const stored = await createFlavor(db, newFlavor(request, request.body.flavor));
    return { flavor: presentFlavor(request, publicUrl, stored) };
  });
  app.put<{ Params: { id: string } }>('/flavors/:id', { schema: { body: UpdateFlavor } }, async (request) => {
    requireFeature(request, 'flavor-description');
    const context = allowed(request, 'os_compute_api:os-flavor-manage:update');
    const { id } = await getFlavor(db, request.params.id, context);
    const { flavor } = request.body as { flavor: { description: string | null } };
    const changed = await describeFlavor(db, id, flavor.description);
    if (!changed) throw noFlavor(id);
    return { flavor: presentFlavor(request, publicUrl, changed) };
  });
  app.delete<{ Params: { id: string } }>('/flavors/:id', async (request, reply) => {
    allowed(request, 'os_compute_api:os-flavor-manage:delete');
    const { id } = request.params;
    if (!isStorableText(id) || !(await deleteFlavor(db, id))) throw noFlavor(id);
    return await reply.status(202).send();
  });
}

/** The flavor, when the caller may see it. @throws not-there (404). */
export async function getFlavor(db: Queryable, id: string, context: RequestContext): Promise<Flavor> {
  const flavor = isStorableText(id) ? await findFlavor(db, id, context.isAdmin ? null : context.projectId) : null;
  if (!flavor) throw noFlavor(id);
  return flavor;
}

function noFlavor(id: string): NightlatchError {
  return new NightlatchError('not-there', { reason: `Flavor ${shorten(id)} could not be found.` });
}

function newFlavor(request: FastifyRequest, asked: CreateFlavor): NewFlavor {
  if (asked.description !== undefined && !has(request, 'flavor-description')) {
    throw badRequest("Additional properties are not allowed ('description' was unexpected)");
  }
  const id = asked.id === undefined || asked.id === null || asked.id === 'auto' ? randomUUID() : String(asked.id);
  return {
    id,
    name: asked.name,
    description: asked.description ?? null,
    vcpus: toInteger('vcpus', asked.vcpus, 1),
    ram_mib: toInteger('ram', asked.ram, 1),
    root_gib: toInteger('disk', asked.disk, 0),
    ephemeral_gib: toInteger('OS-FLV-EXT-DATA:ephemeral', asked['OS-FLV-EXT-DATA:ephemeral'] ?? 0, 0),
    swap_mib: toInteger('swap', asked.swap ?? 0, 0),
    rxtx_factor: Number(asked.rxtx_factor ?? 1),
    is_public: toBoolean(asked['os-flavor-access:is_public'] ?? true),
    extra_specs: '{}',
  };
}

async function createFlavor(db: Queryable, flavor: NewFlavor): Promise<Flavor> {
  const stored = await insertFlavor(db, flavor);
  if (stored === 'id') {
    throw new NightlatchError('conflict', { reason: `Flavor with ID ${flavor.id} already exists.` });
  }
  if (stored === 'name') {
    throw new NightlatchError('conflict', { reason: `Flavor with name ${flavor.name} already exists.` });
  }
  return stored;
}
