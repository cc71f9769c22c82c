import { randomBytes } from 'node:crypto';
import type { ActionCall } from '#api/compute/actions.ts';
import { type BootImage, getBootImage } from '#api/compute/boot-image.ts';
import { checkUnlocked } from '#api/compute/server-lookup.ts';
import { imageIntent } from '#core/encryption-intent.ts';
import { badRequest, NightlatchError } from '#core/errors.ts';
import { checkServerAction } from '#core/server.ts';
import { type DiskRow, disksOf } from '#db/disks.ts';
import type { Server } from '#db/servers.ts';

/**
 * Sets a rescue going: from the image that the request names, else from the server's own.
 *
 * *Throws* server-state, conflict (409); bad-request (400) for an image that cannot be had, does not fit, or asks for
 * other encryption than the server has.
 */
export async function rescueServer({ body, context, server, services }: ActionCall): Promise<{ adminPass: string }> {
  checkUnlocked(server, context);
  checkServerAction('rescue', { id: server.id, vmState: server.vm_state, taskState: server.task_state });
  if (server.launched_at === null) {
    const reason = `Cannot 'rescue' instance ${server.id} which has never been active`;
    throw new NightlatchError('conflict', { reason });
  }
  if (server.image_id === null) {
    throw badRequest(`Instance ${server.id} cannot be rescued: Cannot rescue a volume-backed instance`);
  }
  const id = body.rescue?.rescue_image_ref ?? server.image_id;
  const image = await getBootImage(services.images, id, context, server.project_id);
  const root = (await disksOf(services.db, server.id)).find(
    ({ role, standing }) => role === 'root' && standing === 'live',
  );
  checkFit(image, server, root);
  const { virtualSizeBytes } = image;
  await services.operations.act('rescue', server.id, context, { image: { id: image.id, virtualSizeBytes } });
  // Echoed for clients that insist on one; nothing sets it in the guest.
  return { adminPass: body.rescue?.adminPass ?? randomBytes(9).toString('base64url') };
}

/** What the image says of encryption must be what the server has; where it says nothing, it follows the server. */
function checkFit(image: BootImage, server: Server, root: DiskRow | undefined): void {
  if (server.flavor.ramMib < image.minRamMib) throw badRequest("Flavor's memory is too small for requested image.");
  const wanted = imageIntent(image);
  const has = root?.encrypted ? `encrypted with ${root.encryption}` : 'not encrypted';
  const differs = wanted.encrypted !== null && wanted.encrypted !== (root?.encrypted ?? false);
  const differsInFormat = root?.encrypted && wanted.format !== null && wanted.format !== root.encryption;
  if (!differs && !differsInFormat) return;
  throw badRequest(
    `Image ${image.id} cannot rescue instance ${server.id}: its properties ask for other encryption, and the instance is ${has}.`,
  );
}
