import { randomFillSync, timingSafeEqual } from 'node:crypto';
import { inspect } from 'node:util';

const HEX = Buffer.from('0123456789abcdef', 'latin1');

/**
 * Memory for key material, in one place only. `Buffer.alloc` will not do: up to 64 bytes V8 first keeps on its own heap,
 * and leaves that copy behind when native code is given the buffer.
 */
export function allocateKey(length: number): Buffer {
  return Buffer.from(new ArrayBuffer(length));
}

/**
 * Key material that has no text form: printing, logging or serialising it gives `[secret]`, never its bytes.
 *
 * Its bytes are zeroed when the scope that holds it ends (`using`). They sit in memory of their own, outside Node's
 * shared buffer pool, so that no other buffer shares the page slice and zeroing reaches every copy we made.
 */
export class Secret implements Disposable {
  readonly #bytes: Buffer;
  #disposed = false;

  private constructor(bytes: Buffer) {
    this.#bytes = bytes;
  }

  /**
   * A fresh passphrase: 256 random bits, spelled as 64 lowercase hexadecimal digits because QEMU accepts a LUKS
   * passphrase only as UTF-8 text and OpenStack spells symmetric keys that way.
   */
  static generate(): Secret {
    const raw = allocateKey(32);
    randomFillSync(raw);
    const text = allocateKey(64);
    for (const [i, byte] of raw.entries()) {
      text[2 * i] = HEX[byte >> 4] as number;
      text[2 * i + 1] = HEX[byte & 15] as number;
    }
    raw.fill(0);
    return new Secret(text);
  }

  /** Takes ownership of `bytes`: the caller must not use the buffer again; it is zeroed when the secret's scope ends. */
  static adopt(bytes: Buffer): Secret {
    return new Secret(bytes);
  }

  /** The bytes of all, one after the other, as a secret with a lifetime of its own. */
  static join(secrets: readonly Secret[]): Secret {
    const joined = allocateKey(secrets.reduce((sum, secret) => sum + secret.use((bytes) => bytes.length), 0));
    let at = 0;
    for (const secret of secrets) at += secret.use((bytes) => bytes.copy(joined, at));
    return new Secret(joined);
  }

  /** Lends the bytes to `borrow`, which must not keep them. @throws when the secret was already zeroed. */
  use<T>(borrow: (bytes: Buffer) => T): T {
    if (this.#disposed) throw new Error('a secret was used after it was zeroed');
    return borrow(this.#bytes);
  }

  /** A second, independent copy with a lifetime of its own. */
  copy(): Secret {
    return this.use((bytes) => {
      const twin = allocateKey(bytes.length);
      bytes.copy(twin);
      return new Secret(twin);
    });
  }

  equals(other: Secret): boolean {
    return this.use((a) => other.use((b) => a.length === b.length && timingSafeEqual(a, b)));
  }

  [Symbol.dispose](): void {
    this.#bytes.fill(0);
    this.#disposed = true;
  }

  toString(): string {
    return '[secret]';
  }

  toJSON(): string {
    return '[secret]';
  }

  [Symbol.toPrimitive](): string {
    return '[secret]';
  }

  [inspect.custom](): string {
    return '[secret]';
  }
}
