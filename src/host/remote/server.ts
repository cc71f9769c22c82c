import { once } from 'node:events';
import {
  createSecureServer,
  type Http2SecureServer,
  type ServerHttp2Session,
  type ServerHttp2Stream,
} from 'node:http2';
import type { AddressInfo } from 'node:net';
import { type Duplex, Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import type { TLSSocket } from 'node:tls';
import type { Logger } from 'pino';
import { describeError, NightlatchError } from '#core/errors.ts';
import type { HostName } from '#core/ids.ts';
import type { HostAgent, HostEvent } from '#host/host-agent.ts';
import { decodeCall } from '#host/remote/call.ts';
import { encodeFailure, FAILED_STATUS } from '#host/remote/failure.ts';
import { FrameReader, framed } from '#host/remote/frames.ts';
import { answers, type KeepAlive, keepAlive } from '#host/remote/keep-alive.ts';
import { KeySeal } from '#host/remote/key-seal.ts';
import { type Credentials, TLS_OPTIONS, WINDOW_BYTES, whyNotPeer } from '#host/remote/peer.ts';
import { isVerb, type Verb, verbInWords, verbs } from '#host/remote/verbs.ts';

export type HostServerOptions = {
  readonly name: HostName;
  readonly agent: HostAgent;
  readonly address: string;
  readonly port: number;
  readonly credentials: Credentials;
  readonly log: Logger;
  readonly keepAlive?: KeepAlive;
};

/** How long an older connection may take to show that its other end still lives, when a new one comes. */
const INCUMBENT_ANSWERS_MS = 3000;
const HANDSHAKE_TIMEOUT_MS = 10_000;
const STOP_GRACE_MS = 5000;

/** One connection of the control plane. */
type Line = {
  readonly session: ServerHttp2Session;
  readonly seal: KeySeal;
  /** Settles when the host is in order for this line; rejects when it is not to be used. */
  readonly ready: Promise<void>;
};

/**
 * The host's end: offers its agent to the one control plane whose certificate the same authority has signed.
 *
 * When a connection is taken into use, nothing of an earlier one is under way any more and everything that no running
 * guest needs is locked. A verb whose connection breaks runs to its end; its answer is lost; the control plane, which
 * cannot know, asks again later.
 */
export class HostServer implements AsyncDisposable {
  readonly #options: HostServerOptions;
  readonly #server: Http2SecureServer;
  readonly #lines = new Map<ServerHttp2Session, Line>();
  readonly #underWay = new Set<Promise<unknown>>();
  #current: Line | null = null;
  #admissions: Promise<void> = Promise.resolve();

  private constructor(options: HostServerOptions) {
    this.#options = options;
    const { certificate: cert, key, ca } = options.credentials;
    this.#server = createSecureServer({
      ...TLS_OPTIONS,
      ...{ cert, key, ca, requestCert: true, rejectUnauthorized: true, handshakeTimeout: HANDSHAKE_TIMEOUT_MS },
      settings: { initialWindowSize: WINDOW_BYTES, maxConcurrentStreams: 1000 },
    });
    this.#server.on('session', (session) => this.#welcome(session));
    this.#server.on('stream', (stream, headers) => this.#answer(stream, String(headers[':path'] ?? '')));
    // Whoever cannot finish the handshake, speaks something else or breaks off: one line, and nothing more to do.
    for (const event of ['tlsClientError', 'sessionError'] as const) {
      this.#server.on(event, (error: Error) => options.log.warn(`a connection was refused: ${error.message}`));
    }
    this.#server.on('unknownProtocol', (socket: Duplex) => socket.destroy());
  }

  /** Listens; on return connections are taken. */
  static async listen(options: HostServerOptions): Promise<HostServer> {
    const server = new HostServer(options);
    server.#server.listen(options.port, options.address);
    await once(server.#server, 'listening');
    return server;
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port;
  }

  /** Takes no more calls and waits a moment for those under way. */
  async [Symbol.asyncDispose](): Promise<void> {
    const closed = new Promise((resolve) => this.#server.close(resolve));
    for (const session of this.#lines.keys()) session.destroy();
    const ended = Promise.allSettled(this.#underWay);
    const { promise: late, resolve } = Promise.withResolvers<void>();
    const timer = setTimeout(resolve, STOP_GRACE_MS);
    await Promise.race([ended, late]);
    clearTimeout(timer);
    await closed;
  }

  #welcome(session: ServerHttp2Session): void {
    const { log } = this.#options;
    const socket = session.socket as TLSSocket;
    session.on('error', (error) => log.warn(`the connection of the control plane broke: ${error.message}`));
    const refusal = whyNotPeer(socket.getPeerCertificate(), { role: 'control-plane' });
    if (refusal !== null) {
      log.warn(`a connection was refused: ${refusal}`);
      session.destroy();
      return;
    }
    session.setLocalWindowSize(WINDOW_BYTES);
    keepAlive(session, this.#options.keepAlive);
    const admitted = this.#admissions.then(() => this.#admit(session));
    this.#admissions = admitted.catch(() => {});
    const line: Line = { session, seal: KeySeal.of(socket), ready: admitted.then(() => this.#prepare(session)) };
    line.ready.catch((error: unknown) => log.warn({ err: error }, `not in use: ${describeError(error)}`));
    this.#lines.set(session, line);
    session.once('close', () => {
      this.#lines.delete(session);
      if (this.#current === line) this.#current = null;
      line.seal[Symbol.dispose]();
    });
  }

  /** One control plane at a time: a newcomer waits until it is sure that the one before is gone. */
  async #admit(session: ServerHttp2Session): Promise<void> {
    const incumbent = this.#current;
    if (incumbent && (await answers(incumbent.session, INCUMBENT_ANSWERS_MS))) {
      throw this.#unavailable('take a connection', 'another control plane is connected to it');
    }
    incumbent?.session.destroy();
    this.#current = this.#lines.get(session) ?? null;
  }

  async #prepare(session: ServerHttp2Session): Promise<void> {
    const { log, agent } = this.#options;
    if (this.#underWay.size > 0) log.info(`waiting for ${this.#underWay.size} calls of an earlier connection`);
    while (this.#underWay.size > 0) await Promise.allSettled(this.#underWay);
    if (session.destroyed) throw this.#unavailable('get ready', 'the connection broke');
    await this.#track(agent.lockStrays());
    log.info('the control plane is connected');
  }

  #answer(stream: ServerHttp2Stream, path: string): void {
    const { log } = this.#options;
    // A stream that breaks ends in `finished` or in the pipeline that uses it.
    stream.on('error', () => {});
    const line = this.#lines.get(stream.session as ServerHttp2Session);
    // Its session was refused and is being ended.
    if (!line) return;
    this.#serve(stream, line, path).catch((error: unknown) => {
      if (!(error instanceof NightlatchError)) log.error({ err: error }, `${path} failed: ${describeError(error)}`);
      if (stream.destroyed) return;
      if (stream.headersSent) stream.close();
      else respond(stream, FAILED_STATUS, Buffer.from(encodeFailure(error)));
    });
  }

  async #serve(stream: ServerHttp2Stream, line: Line, path: string): Promise<void> {
    const name = path.slice(1);
    await line.ready;
    if (name === 'events') return this.#tellEvents(stream);
    if (!isVerb(name)) throw new Error(`there is no verb ${name}`);
    if (this.#current !== line) throw this.#unavailable(verbInWords(name), 'the connection broke');
    await this.#track(this.#call(stream, line, name));
  }

  async #call(stream: ServerHttp2Stream, line: Line, verb: Verb): Promise<void> {
    const reader = new FrameReader(stream);
    using call = await decodeCall(reader, line.seal, async () => {
      stream.additionalHeaders({ ':status': 100 });
      return reader.rest((cause) => {
        throw this.#unavailable(`get what ${verbInWords(verb)} needs`, describeError(cause));
      });
    });
    if (verbs[verb] === 'two-way') await reader.release();
    const agent = this.#options.agent as unknown as Record<Verb, (...args: readonly unknown[]) => Promise<unknown>>;
    const result = await agent[verb](...call.args);
    if (result instanceof Readable) return await this.#passOn(stream, result, verb);
    if (stream.destroyed) return;
    respond(stream, 200, Buffer.isBuffer(result) ? result : Buffer.from(JSON.stringify(result ?? null)));
  }

  async #passOn(stream: ServerHttp2Stream, result: Readable, verb: Verb): Promise<void> {
    if (stream.destroyed) return void result.destroy();
    stream.respond({ ':status': 200 });
    if (verbs[verb] !== 'two-way') return await pipeline(result, framed, stream);
    // Whoever ends first, the user or the guest, ends both ways.
    const console = result as Duplex;
    await Promise.allSettled([pipeline(stream, console), pipeline(console, stream)]);
  }

  #tellEvents(stream: ServerHttp2Stream): void {
    stream.respond({ ':status': 200 });
    stream.resume();
    const tell = (event: HostEvent) => stream.destroyed || stream.write(`${JSON.stringify(event)}\n`);
    const stop = this.#options.agent.onEvent(tell);
    stream.once('close', stop);
  }

  async #track<T>(work: Promise<T>): Promise<T> {
    this.#underWay.add(work);
    try {
      return await work;
    } finally {
      this.#underWay.delete(work);
    }
  }

  #unavailable(doing: string, reason: string): NightlatchError {
    return new NightlatchError('host-unavailable', { host: this.#options.name, doing, reason });
  }
}

function respond(stream: ServerHttp2Stream, status: number, body: Buffer): void {
  stream.respond({ ':status': status, 'content-length': body.length });
  stream.end(body);
}
