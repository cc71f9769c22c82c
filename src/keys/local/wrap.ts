import { createCipheriv, createDecipheriv, randomBytes } from 'node:crypto';
import type { ProjectId, SecretId } from '#core/ids.ts';
import { Secret } from '#core/secret.ts';

const CIPHER = 'aes-256-gcm';
/** NIST SP 800-38D section 8.2.2: a random nonce of 96 bits, fresh for every secret. */
const NONCE_BYTES = 12;
const TAG_BYTES = 16;

/** What a secret is bound to: moved to another id or project, its wrapping no longer opens. */
export type Binding = { readonly id: SecretId; readonly projectId: ProjectId };
/** `wrapped`: ciphertext followed by the tag of 16 bytes. */
export type Wrapped = { readonly nonce: Buffer; readonly wrapped: Buffer };

/** Encrypts a secret under the root key, bound to its id and project. */
export function wrap(rootKey: Secret, binding: Binding, secret: Secret): Wrapped {
  const nonce = randomBytes(NONCE_BYTES);
  return rootKey.use((key) => {
    const cipher = createCipheriv(CIPHER, key, nonce, { authTagLength: TAG_BYTES });
    cipher.setAAD(additionalData(binding));
    const body = secret.use((bytes) => cipher.update(bytes));
    return { nonce, wrapped: Buffer.concat([body, cipher.final(), cipher.getAuthTag()]) };
  });
}

/** Decrypts what `wrap` made. @throws when key, binding or bytes are not the ones it was made with. */
export function unwrap(rootKey: Secret, binding: Binding, { nonce, wrapped }: Wrapped): Secret {
  return rootKey.use((key) => {
    const decipher = createDecipheriv(CIPHER, key, nonce, { authTagLength: TAG_BYTES });
    decipher.setAAD(additionalData(binding));
    decipher.setAuthTag(wrapped.subarray(-TAG_BYTES));
    const secret = Secret.adopt(decipher.update(wrapped.subarray(0, -TAG_BYTES)));
    try {
      decipher.final();
      return secret;
    } catch (error) {
      secret[Symbol.dispose]();
      throw error;
    }
  });
}

/** Ids hold no NUL, so the parts cannot run into each other. */
function additionalData({ id, projectId }: Binding): Buffer {
  return Buffer.from(`nightlatch wrapped secret, version 1\0${id}\0${projectId}`, 'utf8');
}
