import { once } from 'node:events';
import { type ClientHttp2Session, connect as connectHttp2 } from 'node:http2';
import { createInterface } from 'node:readline';
import { connect as connectTls, type TLSSocket } from 'node:tls';
import type { HostName } from '#core/ids.ts';
import type { HostEvent } from '#host/host-agent.ts';
import { answerOf, unavailable, wholeBody } from '#host/remote/ask.ts';
import { decodeFailure } from '#host/remote/failure.ts';
import { type KeepAlive, keepAlive } from '#host/remote/keep-alive.ts';
import { KeySeal } from '#host/remote/key-seal.ts';
import { type Credentials, TLS_OPTIONS, WINDOW_BYTES, whyNotPeer } from '#host/remote/peer.ts';

export type HostAddress = {
  readonly name: HostName;
  readonly address: string;
  readonly port: number;
  /** SHA-256 of the one certificate that was made for it, as `X509Certificate.fingerprint256` spells it. */
  readonly fingerprint: string;
};

export type ConnectionOptions = {
  readonly host: HostAddress;
  readonly credentials: Credentials;
  readonly keepAlive?: KeepAlive;
  onEvent(event: HostEvent): void;
};

const CONNECT_TIMEOUT_MS = 10_000;

/** The control plane's end of one connection to a host, from the moment it can be used until it breaks. */
export class HostConnection implements Disposable {
  readonly host: HostName;
  readonly session: ClientHttp2Session;
  readonly seal: KeySeal;
  /** Settles when the connection has ended, with why. */
  readonly ended: Promise<string>;

  private constructor(host: HostName, session: ClientHttp2Session, seal: KeySeal) {
    this.host = host;
    this.session = session;
    this.seal = seal;
    let reason = 'the connection broke';
    session.on('error', (error) => {
      reason = error.message;
    });
    const { promise, resolve } = Promise.withResolvers<string>();
    this.ended = promise;
    session.once('close', () => {
      seal[Symbol.dispose]();
      resolve(reason);
    });
  }

  /** Connects and waits until the host has put itself in order. @throws host-unavailable; what the host answered. */
  static async open(options: ConnectionOptions): Promise<HostConnection> {
    const { name } = options.host;
    const socket = await secureSocket(options);
    const session = connectHttp2(`https://${name}`, {
      createConnection: () => socket,
      settings: { enablePush: false, initialWindowSize: WINDOW_BYTES },
    });
    const connection = new HostConnection(name, session, KeySeal.of(socket));
    try {
      keepAlive(session, options.keepAlive);
      await connection.#followEvents(options);
      return connection;
    } catch (error) {
      connection[Symbol.dispose]();
      throw error;
    }
  }

  [Symbol.dispose](): void {
    this.session.destroy();
  }

  /** The long answer of events also says, by beginning, that the host is ready. */
  async #followEvents({ onEvent }: ConnectionOptions): Promise<void> {
    const lost = (cause: unknown): never => {
      throw unavailable(this.host, 'take a connection', cause);
    };
    const stream = this.session.request({ ':method': 'POST', ':path': '/events' }, { endStream: true });
    const headers = await answerOf(stream).catch(lost);
    this.session.setLocalWindowSize(WINDOW_BYTES);
    if (headers[':status'] !== 200) {
      throw decodeFailure((await wholeBody(stream, headers).catch(lost)).toString('utf8'), this.host);
    }
    createInterface({ input: stream }).on('line', (line) => onEvent(JSON.parse(line) as HostEvent));
    // Without events nothing would be noticed any more.
    stream.once('close', () => this.session.destroy());
  }
}

async function secureSocket({ host, credentials }: ConnectionOptions): Promise<TLSSocket> {
  const { certificate: cert, key, ca } = credentials;
  const socket = connectTls({
    ...TLS_OPTIONS,
    ...{ host: host.address, port: host.port, cert, key, ca, rejectUnauthorized: true },
    checkServerIdentity: (_, peer) => {
      const refusal = whyNotPeer(peer, { role: 'host', name: host.name });
      if (refusal !== null) return new Error(refusal);
      if (peer.fingerprint256 === host.fingerprint) return undefined;
      return new Error('its certificate is not the one it was enrolled with');
    },
  });
  try {
    await once(socket, 'secureConnect', { signal: AbortSignal.timeout(CONNECT_TIMEOUT_MS) });
    if (socket.alpnProtocol !== 'h2') throw new Error('it does not speak HTTP/2');
    return socket;
  } catch (error) {
    socket.destroy();
    const isLate = error instanceof Error && error.name === 'AbortError';
    throw unavailable(host.name, 'take a connection', isLate ? 'it does not answer' : error);
  }
}
