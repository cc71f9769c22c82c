import { Readable } from 'node:stream';

/** What a frame can be; the number is its first byte. Its length follows, 4 bytes big-endian, then its content. */
const kinds = { call: 1, key: 2, data: 3, end: 4 } as const;
export type FrameKind = keyof typeof kinds;
const HEADER_BYTES = 5;

/** A config drive with all that a user may put on it is far below a megabyte; a key is 64 bytes, sealed 92. */
const LONGEST: Readonly<Record<FrameKind, number>> = { call: 8 * 1024 * 1024, key: 1024, data: 64 * 1024, end: 0 };

export function encodeFrame(kind: FrameKind, content: Buffer): Buffer {
  if (content.length > LONGEST[kind]) throw new Error(`a frame ${kind} of ${content.length} bytes is too long`);
  const header = Buffer.alloc(HEADER_BYTES);
  header.writeUInt8(kinds[kind], 0);
  header.writeUInt32BE(content.length, 1);
  return Buffer.concat([header, content]);
}

type Frame = { readonly kind: FrameKind; readonly content: Buffer };

/** Bytes as frames with a last one that says so: an HTTP/2 stream that breaks off can look as if it had ended. */
export async function* framed(bytes: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
  for await (const chunk of bytes) {
    for (let at = 0; at < chunk.length; at += LONGEST.data) {
      yield encodeFrame('data', chunk.subarray(at, at + LONGEST.data));
    }
  }
  yield encodeFrame('end', Buffer.alloc(0));
}

/** Takes frames off the front of a stream. One reader for one stream. */
export class FrameReader {
  readonly #chunks: AsyncIterator<Buffer>;
  #ahead: Buffer = Buffer.alloc(0);

  constructor(stream: Readable) {
    this.#chunks = stream.iterator({ destroyOnReturn: false });
  }

  /**
   * The next frame, which has to be of one of these kinds.
   *
   * *Throws* when it is of another kind, is longer than such a frame may be, or the stream ends before it does.
   */
  async next(...expected: readonly FrameKind[]): Promise<Frame> {
    const header = await this.#take(HEADER_BYTES);
    const kind = expected.find((each) => kinds[each] === header.readUInt8(0));
    if (!kind) throw new Error(`what should be a frame ${expected.join(' or ')} is something else`);
    const length = header.readUInt32BE(1);
    if (length > LONGEST[kind]) throw new Error(`a frame ${kind} claims ${length} bytes`);
    return { kind, content: await this.#take(length) };
  }

  /** The bytes that were `framed`; cut short, they fail, by the error that `lost` throws. */
  rest(lost: (cause: unknown) => never): Readable {
    const bytes = Readable.from(this.#data(lost), { objectMode: false });
    // Whoever reads is told; left unread, it must not end the process.
    return bytes.on('error', () => {});
  }

  async *#data(lost: (cause: unknown) => never): AsyncGenerator<Buffer> {
    for (;;) {
      const { kind, content } = await this.next('data', 'end').catch(lost);
      if (kind === 'end') return;
      yield content;
    }
  }

  /** Lets go of the stream: what comes from now on is for whoever reads it next. */
  async release(): Promise<void> {
    if (this.#ahead.length > 0) throw new Error(`${this.#ahead.length} bytes came too early`);
    await this.#chunks.return?.();
  }

  async #take(bytes: number): Promise<Buffer> {
    const parts = [this.#ahead];
    let have = this.#ahead.length;
    while (have < bytes) {
      const { value, done } = await this.#chunks.next();
      if (done) throw new Error(`it ended after ${have} of ${bytes} bytes`);
      parts.push(value);
      have += value.length;
    }
    const all = parts.length === 1 ? this.#ahead : Buffer.concat(parts);
    this.#ahead = all.subarray(bytes);
    return all.subarray(0, bytes);
  }
}
