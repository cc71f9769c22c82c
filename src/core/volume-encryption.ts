import type { EncryptionFormat } from '#core/encryption-intent.ts';
import { badRequest } from '#core/errors.ts';
import type { VolumeEncryption } from '#core/volume.ts';

/** Providers by the names that volume types give them; the long ones are those of older releases. */
const formats: Readonly<Record<string, EncryptionFormat>> = { luks: 'luks', luks2: 'luksv2', plain: 'plain' };
const legacy: readonly [RegExp, EncryptionFormat][] = [
  [/(^|\.)Luks2Encryptor$/, 'luksv2'],
  [/(^|\.)LuksEncryptor$/, 'luks'],
  [/(^|\.)CryptsetupEncryptor$/, 'plain'],
];

const CIPHER = 'aes-xts-plain64';
/**
 * Both give AES-256 in XTS mode: 512 counts both halves of its key, as cryptsetup does, and 256 only one, as qemu-img
 * does. Nothing gives less than was asked for.
 */
const KEY_SIZES: readonly number[] = [256, 512];

/** How a volume of a type with this encryption is encrypted. @throws bad-request (400) for what nobody here can do. */
export function volumeFormat({ provider, cipher, keySize, controlLocation }: VolumeEncryption): EncryptionFormat {
  const format = formats[provider.toLowerCase()] ?? legacy.find(([pattern]) => pattern.test(provider))?.[1];
  if (!format) throw invalid(`its provider is ${provider}; use luks, luks2 or plain`);
  if (controlLocation.toLowerCase() !== 'front-end') {
    throw invalid(`its control_location is ${controlLocation}; only front-end is served`);
  }
  if (cipher !== CIPHER) throw invalid(`its cipher is ${cipher ?? 'not set'}; only ${CIPHER} is served`);
  if (keySize !== null && !KEY_SIZES.includes(keySize)) {
    throw invalid(`its key_size is ${keySize}; use ${KEY_SIZES.join(' or ')}, both AES-256`);
  }
  return format;
}

function invalid(reason: string): Error {
  return badRequest(`Invalid encryption spec of the volume type: ${reason}.`);
}
