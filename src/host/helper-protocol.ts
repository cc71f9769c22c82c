import { allocateKey } from '#core/secret.ts';
import type { GivenInput } from '#host/privilege.ts';

/**
 * What a service and its root helper say to each other over one connection: a request of two frames (what to run; its
 * standard input) and an answer of three (how it went; standard output; standard error). A frame is its length in four
 * bytes, most significant first, and that many bytes. Closing the connection ends the program.
 */
export type HelperRequest = {
  readonly program: string;
  readonly args: readonly string[];
  readonly input: GivenInput['kind'];
  readonly timeoutMs: number;
};

/** `refused` and `failed` say why in words; `missing`: the program is not installed. */
export type HelperAnswer =
  | { readonly kind: 'ended'; readonly code: number }
  | { readonly kind: 'missing' }
  | { readonly kind: 'refused' | 'failed'; readonly reason: string };

export const REQUEST_LIMITS = [64 * 1024, 64 * 1024] as const;
export const ANSWER_LIMITS = [64 * 1024, 4 * 1024 * 1024, 4 * 1024 * 1024] as const;
/** The longest that any command may take. */
export const LONGEST_MS = 24 * 60 * 60_000;
const MOST_ARGUMENTS = 64;
const LENGTH_BYTES = 4;

/** The four bytes that go before a frame. */
export function frameLength(bytes: number): Buffer {
  const length = Buffer.alloc(LENGTH_BYTES);
  length.writeUInt32BE(bytes);
  return length;
}

/** A frame of text or of bytes that are no secret. */
export function frame(content: string | Buffer): Buffer {
  const bytes = Buffer.from(content);
  return Buffer.concat([frameLength(bytes.length), bytes]);
}

/**
 * Puts together a fixed number of frames from a stream of bytes, each in memory of its own. What it is given is zeroed
 * once it is copied, because it may be part of a key; so are the frames by `wipe`.
 */
export class FrameReader {
  readonly frames: Buffer[] = [];
  readonly #limits: readonly number[];
  readonly #length = Buffer.alloc(LENGTH_BYTES);
  #lengthFilled = 0;
  #filled = 0;

  /** `limits`: the most bytes of each frame, in order. */
  constructor(limits: readonly number[]) {
    this.#limits = limits;
  }

  /** True when every frame is whole. @throws RangeError at a frame longer than its limit, or at more than the last. */
  take(chunk: Buffer): boolean {
    try {
      for (let at = 0; at < chunk.length; ) at += this.#takeSome(chunk.subarray(at));
      return this.#isWhole();
    } finally {
      chunk.fill(0);
    }
  }

  wipe(): void {
    for (const bytes of this.frames) bytes.fill(0);
  }

  #takeSome(chunk: Buffer): number {
    if (this.#isWhole()) throw new RangeError('there is more after the last frame');
    if (this.#lengthFilled < LENGTH_BYTES) {
      const copied = chunk.copy(this.#length, this.#lengthFilled);
      this.#lengthFilled += copied;
      if (this.#lengthFilled === LENGTH_BYTES) this.#begin(this.#length.readUInt32BE());
      return copied;
    }
    const current = this.frames.at(-1) as Buffer;
    const copied = chunk.copy(current, this.#filled);
    this.#filled += copied;
    this.#endIfFull();
    return copied;
  }

  #begin(length: number): void {
    const limit = this.#limits[this.frames.length] ?? 0;
    if (length > limit) throw new RangeError(`a frame of ${length} bytes is longer than ${limit}`);
    this.frames.push(allocateKey(length));
    this.#filled = 0;
    this.#endIfFull();
  }

  #endIfFull(): void {
    if (this.#filled < (this.frames.at(-1) as Buffer).length || this.#isWhole()) return;
    if (this.frames.length < this.#limits.length) this.#lengthFilled = 0;
  }

  #isWhole(): boolean {
    const last = this.frames.at(-1);
    return this.frames.length === this.#limits.length && last !== undefined && this.#filled === last.length;
  }
}

/** Null: these bytes are no request. */
export function parseRequest(bytes: Buffer): HelperRequest | null {
  const value = parseJson(bytes);
  if (typeof value !== 'object' || value === null) return null;
  const { program, args, input, timeoutMs } = value as Partial<Record<keyof HelperRequest, unknown>>;
  if (typeof program !== 'string' || !Array.isArray(args) || args.length > MOST_ARGUMENTS) return null;
  if (!args.every((word) => typeof word === 'string')) return null;
  if (input !== 'none' && input !== 'key' && input !== 'text') return null;
  if (typeof timeoutMs !== 'number' || !(timeoutMs > 0 && timeoutMs <= LONGEST_MS)) return null;
  return { program, args, input, timeoutMs };
}

/** Null: these bytes are no answer. */
export function parseAnswer(bytes: Buffer): HelperAnswer | null {
  const value = parseJson(bytes);
  if (typeof value !== 'object' || value === null || !('kind' in value)) return null;
  if (value.kind === 'missing') return { kind: 'missing' };
  if (value.kind === 'ended' && 'code' in value && typeof value.code === 'number')
    return { kind: 'ended', code: value.code };
  if ((value.kind === 'refused' || value.kind === 'failed') && 'reason' in value)
    return { kind: value.kind, reason: String(value.reason) };
  return null;
}

function parseJson(bytes: Buffer): unknown {
  try {
    return JSON.parse(bytes.toString('utf8'));
  } catch {
    return null;
  }
}
