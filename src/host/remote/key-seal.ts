import { createCipheriv, createDecipheriv, randomBytes } from 'node:crypto';
import type { TLSSocket } from 'node:tls';
import { allocateKey, Secret } from '#core/secret.ts';

const LABEL = 'EXPORTER-nightlatch-keys';
const CIPHER = 'aes-256-gcm';
const NONCE_BYTES = 12;
const TAG_BYTES = 16;

/**
 * Seals keys for the way through a TLS connection, under a key that only its two ends have (RFC 8446 section 7.5).
 *
 * TLS alone would do against everybody on the way. But Node, nghttp2 and OpenSSL copy what is sent through buffers that
 * nobody zeroes; only ciphertext passes through them now, so that zeroing our own copy leaves none.
 */
export class KeySeal implements Disposable {
  readonly #key: Buffer;

  private constructor(key: Buffer) {
    this.#key = key;
  }

  /** The same at both ends of one connection, and nowhere else. */
  static of(socket: Pick<TLSSocket, 'exportKeyingMaterial'>): KeySeal {
    const exported = socket.exportKeyingMaterial(32, LABEL, Buffer.alloc(0));
    const key = allocateKey(exported.length);
    exported.copy(key);
    exported.fill(0);
    return new KeySeal(key);
  }

  /** `context` is not sent: the other end has to know it. */
  seal(secret: Secret, context: Buffer): Buffer {
    const nonce = randomBytes(NONCE_BYTES);
    const cipher = createCipheriv(CIPHER, this.#key, nonce).setAAD(context);
    const sealed = secret.use((bytes) => Buffer.concat([cipher.update(bytes), cipher.final()]));
    return Buffer.concat([nonce, sealed, cipher.getAuthTag()]);
  }

  /** @throws when it was sealed by another connection, for another context, or was changed. */
  open(sealed: Buffer, context: Buffer): Secret {
    if (sealed.length <= NONCE_BYTES + TAG_BYTES) throw new Error('a sealed key is too short');
    const end = sealed.length - TAG_BYTES;
    const decipher = createDecipheriv(CIPHER, this.#key, sealed.subarray(0, NONCE_BYTES));
    decipher.setAAD(context).setAuthTag(sealed.subarray(end));
    const secret = Secret.adopt(decipher.update(sealed.subarray(NONCE_BYTES, end)));
    try {
      decipher.final();
      return secret;
    } catch (error) {
      secret[Symbol.dispose]();
      throw error;
    }
  }

  [Symbol.dispose](): void {
    this.#key.fill(0);
  }
}
