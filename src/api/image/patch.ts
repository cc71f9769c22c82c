import jsonPatch, { type Operation } from 'fast-json-patch';
import type { Static } from 'typebox';
import { Compile } from 'typebox/compile';
import { checkCustomProperties, customPropertiesOf } from '#api/image/properties.ts';
import { imageDocument, type patchRequest, readOnlyFields } from '#api/image/schemas.ts';
import { badRequest, NightlatchError, shorten } from '#core/errors.ts';
import type { Image } from '#core/image.ts';
import { imageEncryption, isEncryptionProperty } from '#core/image-encryption.ts';
import type { ImageChange } from '#db/images.ts';

export type Patch = Static<typeof patchRequest>;
type Document = Static<typeof imageDocument>;

const document = Compile(imageDocument);
const fixed: readonly string[] = [...readOnlyFields, 'id', 'owner'];
const base: readonly string[] = Object.keys(imageDocument.properties);

/**
 * What a JSON patch changes of an image. @throws forbidden for a field only we set, and for the formats of an image
 * that has bytes or says how it is encrypted; conflict, when it replaces or removes what is not there; bad-request, when the result is no image.
 */
export function changeFrom(patch: Patch, image: Image): ImageChange {
  for (const operation of patch) checkOperation(operation, image);
  const patched = applied(patch, documentOf(image));
  if (!document.Check(patched)) {
    const [first] = document.Errors(patched);
    throw badRequest(`The patched image is invalid: ${shorten(first?.instancePath ?? '')} ${first?.message ?? ''}`);
  }
  const properties = customPropertiesOf(patched);
  checkCustomProperties(properties);
  return {
    name: patched.name,
    visibility: patched.visibility,
    diskFormat: patched.disk_format,
    containerFormat: patched.container_format,
    minDiskGib: patched.min_disk,
    minRamMib: patched.min_ram,
    protected: patched.protected,
    hidden: patched.os_hidden,
    tags: [...new Set(patched.tags)],
    properties,
  };
}

function checkOperation({ op, path, value }: Patch[number], image: Image): void {
  const field = path.slice(1).replaceAll('~1', '/').replaceAll('~0', '~');
  const shown = shorten(field, 64);
  if (op !== 'remove' && value === undefined) throw badRequest(`The operation on ${shown} has no value.`);
  if (fixed.includes(field)) throw new NightlatchError('forbidden', { action: `changing the attribute ${shown}` });
  if (op === 'remove' && base.includes(field)) {
    throw new NightlatchError('forbidden', { action: `removing the attribute ${shown}` });
  }
  if ((field === 'disk_format' || field === 'container_format') && image.status !== 'queued') {
    throw new NightlatchError('forbidden', { action: `changing ${shown} of an image that has data` });
  }
  // Its bytes were checked against them, and its secret goes with it.
  const isSettled = image.status !== 'queued' || imageEncryption(image.properties) !== null;
  if (isEncryptionProperty(field) && isSettled) {
    throw new NightlatchError('forbidden', { action: `changing ${shown} of this image` });
  }
}

function applied(patch: Patch, start: Document): unknown {
  try {
    return jsonPatch.applyPatch(start, patch as Operation[], true, false, true).newDocument;
  } catch (error) {
    if (!(error instanceof jsonPatch.JsonPatchError)) throw badRequest('The patch cannot be applied to an image.');
    const path = shorten(String(error.operation?.path ?? ''), 64);
    throw new NightlatchError('conflict', { reason: `The patch does not fit the image at ${path} (${error.name}).` });
  }
}

function documentOf(image: Image): Document {
  return {
    ...image.properties,
    name: image.name,
    visibility: image.visibility,
    disk_format: image.diskFormat,
    container_format: image.containerFormat as Document['container_format'],
    min_disk: image.minDiskGib,
    min_ram: image.minRamMib,
    protected: image.protected,
    os_hidden: image.hidden,
    tags: [...image.tags],
  };
}
