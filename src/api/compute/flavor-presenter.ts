import type { FastifyRequest } from 'fastify';
import { linksTo } from '#api/compute/links.ts';
import { has } from '#api/compute/microversions.ts';
import type { Flavor } from '#db/flavors.ts';
import type { ServerFlavor } from '#db/tables/servers.ts';

/** A flavor as a list without details shows it. */
export function presentFlavorSummary(request: FastifyRequest, publicUrl: string | null, flavor: Flavor): object {
  return {
    id: flavor.id,
    name: flavor.name,
    links: linksTo(request, publicUrl, `flavors/${flavor.id}`),
    ...(has(request, 'flavor-description') ? { description: flavor.description } : {}),
  };
}

/** A flavor in full. */
export function presentFlavor(request: FastifyRequest, publicUrl: string | null, flavor: Flavor): object {
  return {
    id: flavor.id,
    name: flavor.name,
    ram: flavor.ram_mib,
    disk: flavor.root_gib,
    swap: flavor.swap_mib > 0 || has(request, 'strict-queries') ? flavor.swap_mib : '',
    'OS-FLV-EXT-DATA:ephemeral': flavor.ephemeral_gib,
    'OS-FLV-DISABLED:disabled': flavor.disabled,
    vcpus: flavor.vcpus,
    'os-flavor-access:is_public': flavor.is_public,
    rxtx_factor: flavor.rxtx_factor,
    links: linksTo(request, publicUrl, `flavors/${flavor.id}`),
    ...(has(request, 'flavor-description') ? { description: flavor.description } : {}),
    ...(has(request, 'flavor-extra-specs-shown') ? { extra_specs: flavor.extra_specs } : {}),
  };
}

/** The flavor a server was made from, as the server shows it from 2.47 on. */
export function presentEmbeddedFlavor(flavor: ServerFlavor): object {
  return {
    vcpus: flavor.vcpus,
    ram: flavor.ramMib,
    disk: flavor.rootGib,
    ephemeral: flavor.ephemeralGib,
    swap: flavor.swapMib,
    original_name: flavor.name,
    extra_specs: flavor.extraSpecs,
  };
}
