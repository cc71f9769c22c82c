import type { FastifyRequest } from 'fastify';
import type { ApiApp } from '#api/app.ts';
import { checkExtraSpecName } from '#api/compute/extra-spec-names.ts';
import { getFlavor } from '#api/compute/flavor-routes.ts';
import { CreateExtraSpecs, UpdateExtraSpec } from '#api/compute/flavor-schemas.ts';
import { has } from '#api/compute/microversions.ts';
import { allowed } from '#api/compute/policy.ts';
import type { ComputeServices } from '#api/compute/services.ts';
import { checkEncryptionProperty } from '#core/encryption-intent.ts';
import { badRequest, NightlatchError, shorten } from '#core/errors.ts';
import { addExtraSpecs, removeExtraSpec } from '#db/flavors.ts';

type Ids = { id: string; key: string };

/** Extra specs of a flavor, the encryption of its servers' disks among them. See Compute API "Flavors extra-specs". */
export function addExtraSpecRoutes(app: ApiApp, { db }: ComputeServices): void {
  app.get('/flavors/:id/os-extra_specs', async (request) => {
    const context = allowed(request, 'os_compute_api:os-flavor-extra-specs:index');
    const flavor = await getFlavor(db, (request.params as Ids).id, context);
    return { extra_specs: flavor.extra_specs };
  });
  app.get('/flavors/:id/os-extra_specs/:key', async (request) => {
    const context = allowed(request, 'os_compute_api:os-flavor-extra-specs:show');
    const { id, key } = request.params as Ids;
    const { extra_specs: specs } = await getFlavor(db, id, context);
    const value = Object.hasOwn(specs, key) ? specs[key] : undefined;
    if (value === undefined) throw noSpec(id, key);
    return { [key]: value };
  });
  app.post('/flavors/:id/os-extra_specs', { schema: { body: CreateExtraSpecs } }, async (request) => {
    const context = allowed(request, 'os_compute_api:os-flavor-extra-specs:create');
    const { id } = await getFlavor(db, (request.params as Ids).id, context);
    const specs = checkedSpecs(request, request.body.extra_specs);
    if (!(await addExtraSpecs(db, id, specs))) await getFlavor(db, id, context);
    return { extra_specs: specs };
  });
  app.put('/flavors/:id/os-extra_specs/:key', { schema: { body: UpdateExtraSpec } }, async (request) => {
    const context = allowed(request, 'os_compute_api:os-flavor-extra-specs:update');
    const { id, key } = request.params as Ids;
    if (!Object.hasOwn(request.body, key)) throw badRequest('Request body and URI mismatch');
    const specs = checkedSpecs(request, request.body);
    const flavor = await getFlavor(db, id, context);
    await addExtraSpecs(db, flavor.id, specs);
    return specs;
  });
  app.delete('/flavors/:id/os-extra_specs/:key', async (request, reply) => {
    const context = allowed(request, 'os_compute_api:os-flavor-extra-specs:delete');
    const { id, key } = request.params as Ids;
    const flavor = await getFlavor(db, id, context);
    if (!Object.hasOwn(flavor.extra_specs, key) || !(await removeExtraSpec(db, flavor.id, key))) throw noSpec(id, key);
    return await reply.status(200).send();
  });
}

/** The pairs as text, checked from 2.86 on; what is wrong with encryption is refused again when a server is created. */
function checkedSpecs(
  request: FastifyRequest,
  pairs: Readonly<Record<string, string | number | boolean>>,
): Record<string, string> {
  const specs = Object.fromEntries(Object.entries(pairs).map(([key, value]) => [key, specText(value)]));
  if (has(request, 'extra-specs-checked')) {
    for (const [key, value] of Object.entries(specs)) {
      checkExtraSpecName(key);
      checkEncryptionProperty(key, value);
    }
  }
  return specs;
}

/** As Python spells it. */
function specText(value: string | number | boolean): string {
  return typeof value === 'boolean' ? (value ? 'True' : 'False') : String(value);
}

function noSpec(id: string, key: string): NightlatchError {
  return new NightlatchError('not-there', {
    reason: `Flavor ${shorten(id)} has no extra specs with key ${shorten(key)}.`,
  });
}
