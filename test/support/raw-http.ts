import { Agent, request } from 'node:http';
import { connect } from 'node:net';
import { text } from 'node:stream/consumers';

/** What came back: the body as text, and parsed when it is JSON. */
export type RawAnswer = {
  readonly status: number;
  readonly headers: Readonly<Record<string, string | string[] | undefined>>;
  readonly text: string;
  // biome-ignore lint/suspicious/noExplicitAny: bodies are read as a client does, field by field
  readonly json: any;
};

export type RawRequest = {
  readonly headers?: Readonly<Record<string, string | string[]>>;
  readonly body?: string | Buffer;
};

const agent = new Agent({ keepAlive: true, maxSockets: 8 });
const TIMEOUT_MS = 60_000;

/** Sends one request exactly as told: no client library repairs the path or the body. */
export async function sendRaw(url: string, method: string, path: string, sent: RawRequest = {}): Promise<RawAnswer> {
  const { promise, resolve, reject } = Promise.withResolvers<RawAnswer>();
  const { hostname, port } = new URL(url);
  const options = { agent, hostname, port, method, path, timeout: TIMEOUT_MS, headers: { ...sent.headers } };
  const outgoing = request(options, (incoming) => {
    text(incoming).then((body) => {
      const isJson = incoming.headers['content-type']?.includes('json') === true && body !== '';
      const { statusCode = 0, headers } = incoming;
      resolve({ status: statusCode, headers, text: body, json: isJson ? JSON.parse(body) : null });
    }, reject);
  });
  outgoing.on('timeout', () => outgoing.destroy(new Error(`${method} ${path.slice(0, 200)} was not answered`)));
  outgoing.on('error', reject);
  outgoing.end(sent.body);
  return await promise;
}

/** Sends bytes that need not be HTTP, and returns all that comes back until the other side closes. */
export async function sendBytes(url: string, bytes: string | Buffer): Promise<string> {
  const { hostname, port } = new URL(url);
  const socket = connect(Number(port), hostname);
  socket.setTimeout(TIMEOUT_MS, () => socket.destroy(new Error('the connection was left open')));
  socket.write(bytes);
  return await text(socket);
}
