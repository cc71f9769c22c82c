import type { RequestContext } from '#api/auth.ts';
import type { BootImage } from '#api/compute/boot-image.ts';
import { isStorableText } from '#api/fields.ts';
import { badRequest, shorten } from '#core/errors.ts';
import { GIB } from '#core/sizes.ts';
import type { Queryable } from '#db/database.ts';
import { findFlavor } from '#db/flavors.ts';
import type { ServerFlavor } from '#db/tables/servers.ts';

/** The flavor named by its id or its address, as a server keeps it. @throws bad-request (400) with Nova's text. */
export async function getChosenFlavor(
  db: Queryable,
  reference: string,
  { isAdmin, projectId }: RequestContext,
): Promise<ServerFlavor> {
  const id = reference.split('/').at(-1) ?? '';
  const flavor = isStorableText(id) ? await findFlavor(db, id, isAdmin ? null : projectId) : null;
  if (!flavor || flavor.disabled) throw badRequest(`Flavor ${shorten(id)} could not be found.`);
  return {
    id: flavor.id,
    name: flavor.name,
    vcpus: flavor.vcpus,
    ramMib: flavor.ram_mib,
    rootGib: flavor.root_gib,
    ephemeralGib: flavor.ephemeral_gib,
    swapMib: flavor.swap_mib,
    extraSpecs: flavor.extra_specs,
  };
}

/** See nova.compute.api `_validate_flavor_image_nostatus`. @throws bad-request (400) with its texts. */
export function checkFit(flavor: ServerFlavor, image: BootImage): void {
  if (flavor.ramMib < image.minRamMib) throw badRequest("Flavor's memory is too small for requested image.");
  if (flavor.rootGib === 0) return;
  const diskBytes = flavor.rootGib * GIB;
  if (diskBytes < image.virtualSizeBytes) {
    throw badRequest(
      `Flavor's disk is too small for requested image. Flavor disk is ${diskBytes} bytes, image is ${image.virtualSizeBytes} bytes.`,
    );
  }
  if (flavor.rootGib < image.minDiskGib) {
    throw badRequest(
      `Flavor's disk is smaller than the minimum size specified in image metadata. Flavor disk is ${diskBytes} bytes, minimum size is ${image.minDiskGib * GIB} bytes.`,
    );
  }
}
