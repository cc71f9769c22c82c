import { badRequest, shorten } from '#core/errors.ts';
import { isUuid, type SecretId } from '#core/ids.ts';

/**
 * Properties of an image whose data is encrypted. See nova-specs 2024.2 "ephemeral-encryption-libvirt" and cinder-specs
 * 2026.1 "LUKS-image-encryption".
 */
const names = {
  format: 'os_encrypt_format',
  cipher: 'os_encrypt_cipher',
  keyId: 'os_encrypt_key_id',
  keyDeletion: 'os_encrypt_key_deletion_policy',
  container: 'os_decrypt_container_format',
  size: 'os_decrypt_size',
} as const;

const FORMAT = 'LUKSv1';
const CIPHER = 'aes-xts-plain64';
const CONTAINER = 'bare';
const keyDeletionPolicies = ['on_image_deletion', 'do_not_delete'] as const;

export type Properties = Readonly<Record<string, string>>;

/** How an image is encrypted: always LUKSv1, in the layer that its disk format has for it. */
export type ImageEncryption = {
  /** Null: its key is not known yet. */
  readonly secretId: SecretId | null;
  /** Bytes of its plaintext, as it claims; null: it does not say. */
  readonly sizeBytes: number | null;
  /** Its secret goes when it goes. */
  readonly deletesKey: boolean;
};

/** Whether a property says how the image is encrypted. */
export function isEncryptionProperty(name: string): boolean {
  return (Object.values(names) as string[]).includes(name);
}

/** How an image with these properties is encrypted; null: it is not. */
export function imageEncryption(properties: Properties): ImageEncryption | null {
  if (!Object.keys(properties).some(isEncryptionProperty)) return null;
  const size = properties[names.size];
  return {
    secretId: (properties[names.keyId] as SecretId | undefined) ?? null,
    sizeBytes: size === undefined ? null : Number(size),
    deletesKey: properties[names.keyDeletion] === 'on_image_deletion',
  };
}

/** The properties of an image that we encrypt; of one whose key is not stored yet without it. */
export function encryptionProperties(sizeBytes: number, secretId: SecretId | null = null): Record<string, string> {
  return {
    [names.format]: FORMAT,
    [names.cipher]: CIPHER,
    [names.keyDeletion]: 'on_image_deletion',
    [names.container]: CONTAINER,
    [names.size]: String(sizeBytes),
    ...(secretId === null ? {} : keyProperty(secretId)),
  };
}

/** The property by which an image names its key. */
export function keyProperty(secretId: SecretId): Record<string, string> {
  return { [names.keyId]: secretId };
}

/** The properties without those that say how an image is encrypted. */
export function withoutEncryption(properties: Properties): Record<string, string> {
  return Object.fromEntries(Object.entries(properties).filter(([name]) => !isEncryptionProperty(name)));
}

/** Refuses an encryption that nothing here could open. @throws bad-request (400). */
export function checkImageEncryption(properties: Properties): void {
  if (imageEncryption(properties) === null) return;
  if (properties[names.format] === undefined) throw refused(names.format, undefined, FORMAT);
  const allowed: Readonly<Record<string, (value: string) => string | null>> = {
    [names.format]: oneOf([FORMAT]),
    [names.cipher]: oneOf([CIPHER]),
    [names.container]: oneOf([CONTAINER]),
    [names.keyDeletion]: oneOf(keyDeletionPolicies),
    [names.keyId]: (value) => (isUuid(value) ? null : 'the id of a secret'),
    [names.size]: (value) => (/^[1-9]\d{0,15}$/.test(value) ? null : 'a number of bytes'),
  };
  for (const [name, wanted] of Object.entries(allowed)) {
    const value = properties[name];
    const problem = value === undefined ? null : wanted(value);
    if (problem !== null) throw refused(name, value, problem);
  }
}

const oneOf = (values: readonly string[]) => (value: string) => (values.includes(value) ? null : values.join(' or '));

function refused(name: string, value: string | undefined, wanted: string): Error {
  const is = value === undefined ? 'is missing' : `is '${shorten(value, 64)}'`;
  return badRequest(`The image property ${name} ${is}. An encrypted image needs ${wanted} there.`);
}
