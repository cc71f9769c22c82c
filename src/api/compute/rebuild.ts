import { randomBytes } from 'node:crypto';
import type { FastifyRequest } from 'fastify';
import type { RequestContext } from '#api/auth.ts';
import type { ActionCall } from '#api/compute/actions.ts';
import { type BootImage, getBootImage } from '#api/compute/boot-image.ts';
import { checkFit } from '#api/compute/chosen-flavor.ts';
import { refuseFieldsBefore } from '#api/compute/field-versions.ts';
import { addressFrom, userDataFrom } from '#api/compute/fields.ts';
import { getServerKey } from '#api/compute/keypair-routes.ts';
import { has } from '#api/compute/microversions.ts';
import type { Rebuild } from '#api/compute/replace-schemas.ts';
import { checkUnlocked, getServer } from '#api/compute/server-lookup.ts';
import { checkMetadataCount } from '#api/compute/server-metadata.ts';
import { presentServer } from '#api/compute/server-presenter.ts';
import type { ComputeServices } from '#api/compute/services.ts';
import { toBoolean } from '#api/fields.ts';
import { type EncryptionIntent, resolveEncryptionIntent } from '#core/encryption-intent.ts';
import { badRequest, NightlatchError } from '#core/errors.ts';
import { isUuid } from '#core/ids.ts';
import { checkServerAction } from '#core/server.ts';
import type { Queryable } from '#db/database.ts';
import { disksOf } from '#db/disks.ts';
import { listHosts } from '#db/hosts.ts';
import { replaced, type Server, type ServerReplacement } from '#db/servers.ts';
import { attachmentsToServer } from '#db/volume-attachments.ts';

/** Fields that a rebuild got later than other requests. */
const cameWith = {
  key_name: 'rebuild-key-name',
  user_data: 'rebuild-user-data',
  reimage_boot_volume: 'rebuild-boot-volume',
} as const;

/**
 * Judges a request to make a server anew from an image, and sets it going. Answers with the server as it will be.
 *
 * *Throws* server-state (409), bad-request, encryption-conflict (400), refused (403), each before anything changed.
 */
export async function rebuild({ request, server, context, services }: ActionCall, asked: Rebuild): Promise<object> {
  checkUnlocked(server, context);
  checkServerAction('rebuild', { id: server.id, vmState: server.vm_state, taskState: server.task_state });
  refuseFieldsBefore(request, asked, cameWith);
  refuseUnserved(asked);
  if (server.host === null) throw new NightlatchError('server-unplaced', { server: server.id });
  const image = await getBootImage(services.images, imageIdFrom(asked), context, server.project_id);
  if (server.image_id === null) throw volumeBacked(request, image);
  checkFit(server.flavor, image);
  const flavor = { name: server.flavor.name, properties: server.flavor.extraSpecs };
  const intent = resolveEncryptionIntent(flavor, image);
  if (server.project_id !== context.projectId) await checkSameEncryption(services.db, server, intent);
  const replacement = {
    columns: { ...columnsFrom(asked, server, image), ...(await keyFrom(services.db, context, asked)) },
    rebuild: { imageBytes: image.virtualSizeBytes, intent },
  };
  await services.operations.act('rebuild', server.id, context, {}, replacement);
  const rebuilt = replaced(await getServer(services.db, server.id, context));
  const adminPass = asked.adminPass ?? randomBytes(9).toString('base64url');
  return { server: { ...(await presentRebuilt(request, services, rebuilt)), adminPass } };
}

function volumeBacked(request: FastifyRequest, { id }: BootImage): Error {
  const reason = has(request, 'rebuild-boot-volume')
    ? 'Writing an image onto the root volume of a server is not served. Create a server from a new volume.'
    : 'Unable to rebuild with a different image for a volume-backed server.';
  return badRequest(`Image ${id} is unacceptable: ${reason}`);
}

function columnsFrom(asked: Rebuild, server: Server, image: BootImage): ServerReplacement['columns'] {
  if (asked.metadata) checkMetadataCount(asked.metadata);
  const userData = asked.user_data === undefined ? server.user_data : userDataFrom(asked.user_data);
  return {
    image_id: image.id,
    user_data: userData,
    config_drive: server.config_drive || userData !== null,
    ...(asked.name === undefined ? {} : { name: asked.name }),
    ...(asked.description === undefined ? {} : { description: asked.description }),
    ...(asked.metadata === undefined ? {} : { metadata: asked.metadata }),
    ...(asked.hostname === undefined ? {} : { hostname: asked.hostname.toLowerCase() }),
    ...(asked['OS-DCF:diskConfig'] === undefined ? {} : { disk_config: asked['OS-DCF:diskConfig'] }),
    ...(asked.accessIPv4 === undefined ? {} : { access_ipv4: addressFrom('accessIPv4', asked.accessIPv4) }),
    ...(asked.accessIPv6 === undefined ? {} : { access_ipv6: addressFrom('accessIPv6', asked.accessIPv6) }),
  };
}

/** The public key it is to have instead, and the config drive on which a guest finds it. Left out: it keeps what it has. */
async function keyFrom(db: Queryable, context: RequestContext, { key_name: name }: Rebuild) {
  if (name === undefined) return {};
  const key = await getServerKey(db, context, name);
  return key === null
    ? { key_name: null, public_key: null }
    : { key_name: key.name, public_key: key.publicKey, config_drive: true };
}

function imageIdFrom({ imageRef }: Rebuild): string {
  const id = imageRef.split('/').at(-1) ?? '';
  if (!isUuid(id)) throw badRequest("Invalid input for field/attribute imageRef: it is not a 'uuid'.");
  return id;
}

function refuseUnserved(asked: Rebuild): void {
  if (toBoolean(asked.preserve_ephemeral ?? false)) {
    throw badRequest('The current driver does not support preserving ephemeral partitions.');
  }
  if ((asked.trusted_image_certificates ?? []).length > 0) {
    throw badRequest('Image certificates are not checked here. Leave out trusted_image_certificates.');
  }
  if ((asked.personality ?? []).length > 0) {
    throw badRequest('Files are not injected into servers. Bring them in by user_data.');
  }
}

/** See nova-specs 2024.2: only its owner may change how a server is encrypted. */
async function checkSameEncryption(
  db: ActionCall['services']['db'],
  server: Server,
  intent: EncryptionIntent,
): Promise<void> {
  const root = (await disksOf(db, server.id)).find(({ role, standing }) => role === 'root' && standing === 'live');
  if (!root) return;
  const host = (await listHosts(db)).find(({ name }) => name === server.host);
  const undecided = host?.undecided_encryption_format ?? null;
  const format = intent.encrypted === null ? undecided : intent.format;
  const isSameFormat = format === null || format === root.encryption;
  if (root.encrypted === (intent.encrypted ?? undecided !== null) && isSameFormat) return;
  throw new NightlatchError('refused', {
    reason: `Only a user of the project that owns server ${server.id} may rebuild it with another encryption.`,
  });
}

/** Before 2.75 a rebuild showed less than a look at the server does. */
const shownLater =
  /^(OS-EXT-AZ:|OS-EXT-SRV-ATTR:|OS-SRV-USG:|OS-EXT-STS:|os-extended-volumes:|config_drive$|host_status$)/;

async function presentRebuilt(
  request: FastifyRequest,
  { db, publicUrl }: ComputeServices,
  server: Server,
): Promise<object> {
  const attached = await attachmentsToServer(db, server.id);
  const shown = Object.entries(presentServer(request, publicUrl, server, attached)).filter(
    ([name]) =>
      (has(request, 'rebuild-shows-all') || !shownLater.test(name)) &&
      (name !== 'key_name' || has(request, 'rebuild-key-name')),
  );
  const userData = has(request, 'rebuild-user-data') ? { user_data: server.user_data } : {};
  return { ...Object.fromEntries(shown), ...userData };
}
