import type { Static } from 'typebox';
import type { RequestContext } from '#api/auth.ts';
import type { CreateImage } from '#api/compute/action-schemas.ts';
import { checkMetadataCount } from '#api/compute/server-metadata.ts';
import { checkEncryptionProperty } from '#core/encryption-intent.ts';
import { badRequest, NightlatchError } from '#core/errors.ts';
import { isEncryptionProperty } from '#core/image-encryption.ts';
import type { Server } from '#db/servers.ts';
import type { ImageRequest } from '#operations/server-operations.ts';

/**
 * Judges a request for an image of a server's root disk. @throws bad-request (400); refused (403), also when someone else
 * than its owner wants an encrypted disk in clear.
 */
export function imageRequestFrom(
  asked: Static<typeof CreateImage>,
  server: Server,
  context: RequestContext,
): ImageRequest {
  const properties = asked.metadata ?? {};
  checkMetadataCount(properties);
  for (const [name, value] of Object.entries(properties)) {
    checkEncryptionProperty(name, value);
    if (isEncryptionProperty(name)) throw badRequest(`The image property ${name} is set by the service. Leave it out.`);
  }
  return { name: asked.name, properties, encryption: encryptionFrom(asked, server, context) };
}

/** See nova-specs 2024.2 "ephemeral-encryption-libvirt", "createImage". */
function encryptionFrom(
  { encryption }: Static<typeof CreateImage>,
  server: Server,
  context: RequestContext,
): ImageRequest['encryption'] {
  const key = encryption?.key ?? 'new';
  if (encryption?.secret_uuid !== undefined)
    throw badRequest('Invalid input for field/attribute secret_uuid: an image has a key of its own.');
  if (key === 'new') return key;
  if (key !== 'none') {
    const reason = key === 'same' ? 'two things would have one key' : 'there is no key manager to take it from';
    throw badRequest(
      `Invalid input for field/attribute key: '${key}' is not served, because ${reason}. Use 'new' or 'none'.`,
    );
  }
  if (context.projectId !== server.project_id) {
    throw new NightlatchError('refused', {
      reason: `Only its own project can have an image of server ${server.id} in clear. Leave out encryption, or ask for the key 'new'.`,
    });
  }
  return key;
}
