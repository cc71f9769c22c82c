import { NightlatchError } from '#core/errors.ts';
import { imageEncryption } from '#core/image-encryption.ts';

/** Values of `hw:ephemeral_encryption_format` that the API knows; what a host can do is a matter of traits. */
export const encryptionFormats = ['plain', 'luks', 'luksv2'] as const;
export type EncryptionFormat = (typeof encryptionFormats)[number];

export const ENCRYPTION_EXTRA_SPEC = 'hw:ephemeral_encryption';
export const ENCRYPTION_FORMAT_EXTRA_SPEC = 'hw:ephemeral_encryption_format';
export const ENCRYPTION_IMAGE_PROPERTY = 'hw_ephemeral_encryption';
export const ENCRYPTION_FORMAT_IMAGE_PROPERTY = 'hw_ephemeral_encryption_format';

/**
 * What a flavor and an image together ask of a server's disks. `encrypted` null: neither says, so the host decides.
 * `format` null: the host's default format.
 */
export type EncryptionIntent = { readonly encrypted: boolean | null; readonly format: EncryptionFormat | null };

type Named = { readonly name: string; readonly properties: Readonly<Record<string, string>> };

/**
 * Decides whether a server's disks are encrypted, and how, from its flavor's extra specs and its image's properties. From
 * an encrypted image they are, unless told otherwise; and that is refused, because it would decrypt it in silence.
 *
 * @throws encryption-conflict (400) when both say something and differ; encryption-format-invalid (400);
 * encrypted-image-conflict (409).
 * See nova-specs 2024.2 "ephemeral-storage-encryption"; the code answers 400 where the specification says 409.
 */
export function resolveEncryptionIntent(flavor: Named, image: Named): EncryptionIntent {
  const encrypted = agree(flavor, image, ENCRYPTION_EXTRA_SPEC, ENCRYPTION_IMAGE_PROPERTY, parseBoolean);
  const format = agree(flavor, image, ENCRYPTION_FORMAT_EXTRA_SPEC, ENCRYPTION_FORMAT_IMAGE_PROPERTY, parseFormat);
  const isImageEncrypted = imageEncryption(image.properties) !== null;
  if (isImageEncrypted && encrypted === false) throw imageConflict(flavor, image);
  const decided = isImageEncrypted ? true : encrypted;
  return { encrypted: decided, format: decided ? format : null };
}

/** What an image says by itself; null where it says nothing. One that is encrypted says that disks are. @throws encryption-format-invalid; bad-request. */
export function imageIntent({ properties }: Pick<Named, 'properties'>): {
  readonly encrypted: boolean | null;
  readonly format: EncryptionFormat | null;
} {
  const encrypted = properties[ENCRYPTION_IMAGE_PROPERTY];
  const format = properties[ENCRYPTION_FORMAT_IMAGE_PROPERTY];
  const isEncrypted = imageEncryption(properties) !== null;
  return {
    encrypted: isEncrypted || (encrypted === undefined ? null : parseBoolean(ENCRYPTION_IMAGE_PROPERTY, encrypted)),
    format: format === undefined ? null : parseFormat(ENCRYPTION_FORMAT_IMAGE_PROPERTY, format),
  };
}

/** Checks one extra spec or image property by itself, as when a flavor is changed. @throws as above. */
export function checkEncryptionProperty(key: string, value: string): void {
  if (key === ENCRYPTION_FORMAT_EXTRA_SPEC || key === ENCRYPTION_FORMAT_IMAGE_PROPERTY) parseFormat(key, value);
  if (key === ENCRYPTION_EXTRA_SPEC || key === ENCRYPTION_IMAGE_PROPERTY) parseBoolean(key, value);
}

/** The traits a host must report to take a server with this intent. */
export function requiredTraits(intent: EncryptionIntent): string[] {
  if (!intent.encrypted) return [];
  const traits = ['COMPUTE_EPHEMERAL_ENCRYPTION'];
  if (intent.format !== null) traits.push(formatTrait(intent.format));
  return traits;
}

export function formatTrait(format: EncryptionFormat): string {
  return `COMPUTE_EPHEMERAL_ENCRYPTION_${format.toUpperCase()}`;
}

function imageConflict(flavor: Named, image: Named): NightlatchError {
  const value = flavor.properties[ENCRYPTION_EXTRA_SPEC];
  const said =
    value === undefined
      ? { where: 'it', key: ENCRYPTION_IMAGE_PROPERTY, value: image.properties[ENCRYPTION_IMAGE_PROPERTY] ?? '' }
      : { where: `flavor ${flavor.name}`, key: ENCRYPTION_EXTRA_SPEC, value };
  return new NightlatchError('encrypted-image-conflict', { image: image.name, ...said });
}

function agree<T>(
  flavor: Named,
  image: Named,
  flavorKey: string,
  imageKey: string,
  parse: (key: string, value: string) => T,
): T | null {
  const flavorText = flavor.properties[flavorKey];
  const imageText = image.properties[imageKey];
  const fromFlavor = flavorText === undefined ? null : parse(flavorKey, flavorText);
  const fromImage = imageText === undefined ? null : parse(imageKey, imageText);
  if (fromFlavor !== null && fromImage !== null && fromFlavor !== fromImage) {
    throw new NightlatchError('encryption-conflict', {
      flavor: flavor.name,
      flavorKey,
      flavorValue: flavorText ?? '',
      image: image.name,
      imageKey,
      imageValue: imageText ?? '',
    });
  }
  return fromFlavor ?? fromImage;
}

const TRUE_WORDS = new Set(['1', 't', 'true', 'on', 'y', 'yes']);
const FALSE_WORDS = new Set(['0', 'f', 'false', 'off', 'n', 'no']);

/** OpenStack's boolean words (oslo.utils strutils), case-insensitive. */
function parseBoolean(key: string, value: string): boolean {
  const word = value.trim().toLowerCase();
  if (TRUE_WORDS.has(word)) return true;
  if (FALSE_WORDS.has(word)) return false;
  throw new NightlatchError('bad-request', { reason: `${key} is '${value}', which is neither true nor false.` });
}

function parseFormat(key: string, value: string): EncryptionFormat {
  if ((encryptionFormats as readonly string[]).includes(value)) return value as EncryptionFormat;
  throw new NightlatchError('encryption-format-invalid', { key, value, formats: encryptionFormats.join(', ') });
}
