import type { ActionCall } from '#api/compute/actions.ts';
import { findBootImage } from '#api/compute/boot-image.ts';
import { checkFit, getChosenFlavor } from '#api/compute/chosen-flavor.ts';
import type { Resize } from '#api/compute/replace-schemas.ts';
import { checkUnlocked } from '#api/compute/server-lookup.ts';
import { resolveEncryptionIntent } from '#core/encryption-intent.ts';
import { badRequest, NightlatchError } from '#core/errors.ts';
import { checkGrowsOnly } from '#core/resize.ts';
import { checkServerAction } from '#core/server.ts';
import { GIB } from '#core/sizes.ts';
import { type DiskRow, disksOf } from '#db/disks.ts';
import type { Server } from '#db/servers.ts';
import type { ServerFlavor } from '#db/tables/servers.ts';

type Named = Parameters<typeof resolveEncryptionIntent>[1];

/**
 * Judges a request to give a server another flavor, and sets the resize going.
 *
 * *Throws* server-state (409), bad-request, encryption-conflict or encryption-change (400), each before anything changed.
 */
export async function resize({ server, context, services }: ActionCall, asked: Resize): Promise<void> {
  checkUnlocked(server, context);
  checkServerAction('resize', { id: server.id, vmState: server.vm_state, taskState: server.task_state });
  const flavor = await getChosenFlavor(services.db, String(asked.flavorRef), context);
  if (flavor.id === server.flavor.id) throw badRequest('When resizing, instances must change flavor!');
  const disks = await disksOf(services.db, server.id);
  const root = disks.find(({ role, standing }) => role === 'root' && standing === 'live');
  const rootBytes = server.image_id === null ? null : (root?.size_bytes ?? server.flavor.rootGib * GIB);
  checkGrowsOnly({ ...server.flavor, rootBytes }, flavor);
  // An image that is gone asks nothing any more; what it asked for is in how the disks are.
  const image = server.image_id === null ? null : await findBootImage(services.images, server.image_id, context);
  if (image) checkFit(flavor, image);
  checkSameEncryption(server, flavor, image ?? { name: '', properties: {} }, root ?? null);
  const diskConfig = asked['OS-DCF:diskConfig'];
  const columns = { flavor, ...(diskConfig === undefined ? {} : { disk_config: diskConfig }) };
  await services.operations.act('resize', server.id, context, {}, { columns, rebuild: null });
}

/** See nova-specs 2024.2 "ephemeral-storage-encryption": a resize cannot change how disks are encrypted. */
function checkSameEncryption(server: Server, flavor: ServerFlavor, image: Named, root: DiskRow | null): void {
  const intentOf = ({ name, extraSpecs }: ServerFlavor) =>
    resolveEncryptionIntent({ name, properties: extraSpecs }, image);
  const [old, asked] = [intentOf(server.flavor), intentOf(flavor)];
  const isSameFormat = asked.format === null || asked.format === (root?.encryption ?? old.format);
  const was = old.encrypted ?? root?.encrypted ?? false;
  // What nobody decided stays as it is; what somebody did, and now nobody does, counts as not encrypted.
  const asks = asked.encrypted ?? (old.encrypted === null ? was : false);
  if (was === asks && isSameFormat) return;
  throw new NightlatchError('encryption-change', { server: server.id, flavor: flavor.name });
}

/** Takes a resize back, while there is something to go back to. @throws bad-request (400); server-state (409). */
export async function revertResize({ server, context, services }: ActionCall): Promise<void> {
  checkUnlocked(server, context);
  if (server.vm_state === 'resized' && server.old_flavor === null) {
    throw badRequest('The resize is being confirmed and cannot be reverted any more. Confirm it again.');
  }
  await services.operations.act('revert-resize', server.id, context);
}
