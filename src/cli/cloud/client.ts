import { createReadStream } from 'node:fs';
import { Readable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import type { CloudLogin } from '#main/clouds-yaml.ts';

/** What a service answered: any status, the body parsed when it is JSON. */
export type Answer = { readonly status: number; readonly headers: Headers; readonly body: JsonObject };
// biome-ignore lint/suspicious/noExplicitAny: bodies of other people's APIs are read field by field
export type JsonObject = Record<string, any>;

export type ServiceName = 'identity' | 'image' | 'compute' | 'volume';
type RequestOptions = {
  readonly body?: unknown;
  readonly headers?: Record<string, string>;
  readonly stream?: Readable;
};

/** The microversion we ask of compute: the newest that Debian 12's client knows too. */
export const COMPUTE_MICROVERSION = '2.90';
const POLL_MS = 100;

/** A plain client of the OpenStack APIs, for the tour and the tests: it speaks HTTP and nothing else to the service. */
export class CloudClient {
  readonly #base: string;
  readonly #login: CloudLogin;
  readonly #stop: AbortSignal | null;
  /** By how much waits, and the pauses in them, are longer than they say. */
  readonly patience: number;
  #token: string | null = null;

  /** `stop`, once aborted, ends every request and every wait. See `patience`. */
  constructor(login: CloudLogin, stop: AbortSignal | null = null, patience = 1) {
    this.#login = login;
    this.#stop = stop;
    this.patience = patience;
    this.#base = login.authUrl.replace(/\/identity\/v3$/, '');
  }

  /** The token in use; asks for one when there is none. @throws when the login is refused. */
  async token(): Promise<string> {
    this.#token ??= await this.#authenticate();
    return this.#token;
  }

  /** Sends one request and returns whatever comes back. `path` starts after the service's prefix. */
  async request(service: ServiceName, method: string, path: string, options: RequestOptions = {}): Promise<Answer> {
    const init: RequestInit = {
      method,
      signal: this.#stop,
      headers: {
        'x-auth-token': await this.token(),
        ...(service === 'compute' ? { 'openstack-api-version': `compute ${COMPUTE_MICROVERSION}` } : {}),
        ...(options.body === undefined ? {} : { 'content-type': 'application/json' }),
        ...(options.stream ? { 'content-type': 'application/octet-stream' } : {}),
        ...options.headers,
      },
    };
    if (options.body !== undefined) init.body = JSON.stringify(options.body);
    // `duplex` is what fetch asks for when the body is a stream; its type does not know it.
    if (options.stream) Object.assign(init, { body: Readable.toWeb(options.stream), duplex: 'half' });
    return await read(await fetch(`${this.#base}/${service}${path}`, init));
  }

  /** As `request`, for what must succeed. @throws with the service's own words when it does not. */
  async expect(service: ServiceName, method: string, path: string, options: RequestOptions = {}): Promise<JsonObject> {
    const { status, body } = await this.request(service, method, path, options);
    if (status < 400) return body;
    throw new Error(`${method} /${service}${path} answered ${status}: ${JSON.stringify(body)}`);
  }

  /** Creates an image and uploads its bytes; returns its id. */
  async uploadImage(
    name: string,
    file: string,
    diskFormat: 'raw' | 'qcow2',
    properties: Readonly<Record<string, string>> = {},
  ): Promise<string> {
    const description = { ...properties, name, disk_format: diskFormat, container_format: 'bare' };
    const { id } = await this.expect('image', 'POST', '/v2/images', { body: description });
    await this.expect('image', 'PUT', `/v2/images/${id}/file`, { stream: createReadStream(file) });
    return id;
  }

  async server(id: string): Promise<JsonObject> {
    return (await this.expect('compute', 'GET', `/v2.1/servers/${id}`)).server;
  }

  async act(id: string, action: JsonObject): Promise<JsonObject> {
    return await this.expect('compute', 'POST', `/v2.1/servers/${id}/action`, { body: action });
  }

  /** Waits until a server has a status and no task. @throws with its fault when it ends in ERROR, or after the timeout. */
  async waitForStatus(id: string, status: string, timeoutMs = 120_000): Promise<JsonObject> {
    const deadline = Date.now() + timeoutMs * this.patience;
    for (;;) {
      const server = await this.server(id);
      const isIdle = server['OS-EXT-STS:task_state'] === null;
      if (server.status === status && isIdle) return server;
      const told = `server ${server.name} is ${server.status}, fault: ${server.fault?.message ?? 'none'}`;
      if (server.status === 'ERROR' && isIdle) throw new Error(told);
      if (Date.now() > deadline) throw new Error(`waited ${timeoutMs / 1000} s for ${status}, but ${told}`);
      await this.#pause();
    }
  }

  /** Waits until a server is gone (404). @throws when it ends in ERROR, or after the timeout. */
  async waitUntilGone(id: string, timeoutMs = 60_000): Promise<void> {
    const deadline = Date.now() + timeoutMs * this.patience;
    for (;;) {
      const { status, body } = await this.request('compute', 'GET', `/v2.1/servers/${id}`);
      if (status === 404) return;
      const { server } = body;
      if (server?.status === 'ERROR' && server['OS-EXT-STS:task_state'] === null)
        throw new Error(server.fault?.message);
      if (Date.now() > deadline) throw new Error(`waited ${timeoutMs / 1000} s for server ${id} to be gone`);
      await this.#pause();
    }
  }

  async consoleLog(id: string): Promise<string> {
    return (await this.act(id, { 'os-getConsoleOutput': {} })).output;
  }

  /** Address of a WebSocket to the guest's serial console, good for one connection. */
  async serialConsoleUrl(id: string): Promise<string> {
    const body = { remote_console: { protocol: 'serial', type: 'serial' } };
    return (await this.expect('compute', 'POST', `/v2.1/servers/${id}/remote-consoles`, { body })).remote_console.url;
  }

  #pause(): Promise<void> {
    return sleep(POLL_MS * this.patience, undefined, this.#stop === null ? {} : { signal: this.#stop });
  }

  async #authenticate(): Promise<string> {
    const { userName, password, projectName, domainId } = this.#login;
    const user = { name: userName, password, domain: { id: domainId } };
    const scope = { project: { name: projectName, domain: { id: domainId } } };
    const answer = await fetch(`${this.#login.authUrl}/auth/tokens`, {
      method: 'POST',
      signal: this.#stop,
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ auth: { identity: { methods: ['password'], password: { user } }, scope } }),
    });
    const token = answer.headers.get('x-subject-token');
    if (token === null) throw new Error(`logging in as ${userName} answered ${answer.status}: ${await answer.text()}`);
    await answer.body?.cancel();
    return token;
  }
}

async function read(response: Response): Promise<Answer> {
  const text = await response.text();
  const isJson = response.headers.get('content-type')?.includes('json') === true && text !== '';
  return { status: response.status, headers: response.headers, body: isJson ? JSON.parse(text) : { text } };
}
