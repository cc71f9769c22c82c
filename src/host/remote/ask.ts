import type { ClientHttp2Session, ClientHttp2Stream, IncomingHttpHeaders, IncomingHttpStatusHeader } from 'node:http2';
import { pipeline } from 'node:stream/promises';
import { NightlatchError } from '#core/errors.ts';
import type { HostName } from '#core/ids.ts';
import { encodeCall, type Source } from '#host/remote/call.ts';
import { decodeFailure } from '#host/remote/failure.ts';
import { FrameReader, framed } from '#host/remote/frames.ts';
import type { KeySeal } from '#host/remote/key-seal.ts';
import { type AnswerKind, type Verb, verbInWords, verbs } from '#host/remote/verbs.ts';

export type AnswerHeaders = IncomingHttpHeaders & IncomingHttpStatusHeader;

/** A connection to ask over. */
export type Line = { readonly host: HostName; readonly session: ClientHttp2Session; readonly seal: KeySeal };

/**
 * Asks a host for one verb and returns its result. @throws host-unavailable when the connection breaks before the whole
 * answer is there, in which case nobody knows how far the host came; otherwise what the verb throws there.
 */
export async function ask(line: Line, verb: Verb, args: readonly unknown[]): Promise<unknown> {
  const kind = verbs[verb] as AnswerKind;
  const { frames, source } = encodeCall(args, line.seal);
  const lost = (cause: unknown): never => {
    throw unavailable(line.host, verbInWords(verb), cause);
  };
  const stream = request(line.session, verb, lost);
  const answered = answerOf(stream);
  for (const frame of frames) stream.write(frame);
  const sent = source === null ? null : sendWhenWanted(stream, source);
  if (source === null && kind !== 'two-way') stream.end();
  // A source that failed here has broken the stream: it is the reason, not the connection.
  const headers = await answered.catch(async (cause: unknown) => (await sent?.failed()) ?? lost(cause));
  if (headers[':status'] !== 200) {
    const failure = decodeFailure((await wholeBody(stream, headers).catch(lost)).toString('utf8'), line.host);
    stream.close();
    throw failure;
  }
  switch (kind) {
    case 'json':
      return JSON.parse((await wholeBody(stream, headers).catch(lost)).toString('utf8')) ?? undefined;
    case 'bytes':
      return await wholeBody(stream, headers).catch(lost);
    case 'stream':
      return new FrameReader(stream).rest(lost).once('close', () => stream.close());
    case 'two-way':
      return stream;
  }
}

/** The headers of the answer, however long it takes. @throws when the stream or its session ends first. */
export async function answerOf(stream: ClientHttp2Stream): Promise<AnswerHeaders> {
  const { promise, resolve, reject } = Promise.withResolvers<AnswerHeaders>();
  let cause = new Error('the connection broke');
  stream.on('error', (error) => {
    cause = error;
  });
  stream.once('response', resolve);
  stream.once('close', () => reject(cause));
  promise.catch(() => {});
  return await promise;
}

/** The body of an answer, whole: broken off, it would only look shorter. */
export async function wholeBody(stream: ClientHttp2Stream, headers: AnswerHeaders): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of stream) chunks.push(chunk as Buffer);
  const body = Buffer.concat(chunks);
  if (body.length !== Number(headers['content-length'])) throw new Error('the connection broke');
  return body;
}

export function unavailable(host: HostName, doing: string, cause: unknown): NightlatchError {
  const reason = cause instanceof Error ? cause.message : String(cause);
  return new NightlatchError('host-unavailable', { host, doing, reason }, { cause });
}

function request(session: ClientHttp2Session, verb: Verb, lost: (cause: unknown) => never): ClientHttp2Stream {
  try {
    return session.request({ ':method': 'POST', ':path': `/${verb}` }, { endStream: false });
  } catch (error) {
    // The session has ended between two calls.
    return lost(error);
  }
}

/** The host says by 100 (Continue) that it does not have the bytes yet. */
function sendWhenWanted(stream: ClientHttp2Stream, source: Source) {
  let failure: unknown = null;
  let sending: Promise<void> = Promise.resolve();
  const send = async () => {
    const bytes = await source().catch((error: unknown) => {
      failure = error;
      throw error;
    });
    bytes.once('error', (error) => {
      failure = error;
    });
    await pipeline(bytes, framed, stream);
  };
  stream.once('continue', () => {
    sending = send().catch(() => stream.close());
  });
  const failed = async (): Promise<null> => {
    await sending;
    if (failure !== null) throw failure;
    return null;
  };
  return { failed };
}
