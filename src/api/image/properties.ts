import { baseFields } from '#api/image/schemas.ts';
import { checkEncryptionProperty } from '#core/encryption-intent.ts';
import { badRequest } from '#core/errors.ts';
import { checkImageEncryption } from '#core/image-encryption.ts';

/** Default of Glance's `image_property_quota`. */
const MAX_PROPERTIES = 128;

/** The fields of a request that are custom properties; a schema has made sure that they are strings. */
export function customPropertiesOf(fields: object): Record<string, string> {
  const custom = Object.entries(fields).filter(([name]) => !baseFields.includes(name));
  return Object.fromEntries(custom as [string, string][]);
}

/** @throws bad-request or encryption-format-invalid, for too many, or a value no server could be made with. */
export function checkCustomProperties(properties: Readonly<Record<string, string>>): void {
  const entries = Object.entries(properties);
  if (entries.length > MAX_PROPERTIES) throw badRequest(`An image can have at most ${MAX_PROPERTIES} properties.`);
  for (const [name, value] of entries) checkEncryptionProperty(name, value);
  checkImageEncryption(properties);
}
