import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import pino from 'pino';
import type { HostName } from '#core/ids.ts';
import type { HostAgent } from '#host/host-agent.ts';
import { Authority, readCredentials } from '#host/remote/certificates.ts';
import type { KeepAlive } from '#host/remote/keep-alive.ts';
import type { Credentials } from '#host/remote/peer.ts';
import { RemoteHost } from '#host/remote/remote-host.ts';
import { HostServer } from '#host/remote/server.ts';

const HOST = 'far' as HostName;
/** A connection that was cut is noticed within a second. */
const QUICK: KeepAlive = { everyMs: 100, deadAfterMs: 800 };

/** An authority of its own, a host's end on a free port of loopback, and control planes that connect to it. */
export class RemoteLab implements AsyncDisposable {
  readonly folder: string;
  readonly control: Credentials;
  readonly host: Credentials;
  readonly fingerprint: string;
  /** What the host's end logged. */
  readonly log: string[] = [];
  readonly #owned = new AsyncDisposableStack();
  #port = 0;

  private constructor(folder: string, control: Credentials, host: Credentials, fingerprint: string) {
    this.folder = folder;
    this.control = control;
    this.host = host;
    this.fingerprint = fingerprint;
    this.#owned.defer(() => rm(folder, { recursive: true, force: true }));
  }

  static async open(): Promise<RemoteLab> {
    const folder = await mkdtemp(join(tmpdir(), 'nightlatch-remote-'));
    const authority = await Authority.open(join(folder, 'authority'));
    const at = join(folder, HOST);
    const fingerprint = await authority.enroll(HOST, at);
    const names = { certificate: 'host.crt', key: 'host.key', ca: 'ca.crt' };
    const files = Object.fromEntries(Object.entries(names).map(([part, name]) => [part, join(at, name)]));
    const host = await readCredentials(files as Credentials);
    return new RemoteLab(folder, await authority.credentials(), host, fingerprint);
  }

  get port(): number {
    return this.#port;
  }

  /** The host's end, offering this agent; ends with the lab. */
  async serve(agent: HostAgent, port = 0): Promise<HostServer> {
    const server = this.#owned.use(await this.serveElsewhere(agent, this.host, port));
    this.#port = server.port;
    return server;
  }

  /** Another end that calls itself this host. */
  serveElsewhere(agent: HostAgent, credentials: Credentials, port = 0): Promise<HostServer> {
    const log = pino({ level: 'debug' }, { write: (line: string) => void this.log.push(line) });
    return HostServer.listen({ name: HOST, agent, address: '127.0.0.1', port, credentials, log, keepAlive: QUICK });
  }

  /** A control plane that keeps a connection to `port`; `changes` gets what it is told of it. */
  connect({
    credentials = this.control,
    fingerprint = this.fingerprint,
    port = this.#port,
    name = HOST as string,
  } = {}): RemoteHost & { readonly changes: (string | null)[] } {
    const changes: (string | null)[] = [];
    const host = { name: name as HostName, address: '127.0.0.1', port, fingerprint };
    const remote = new RemoteHost({
      host,
      credentials,
      keepAlive: QUICK,
      onChange: (trouble) => void changes.push(trouble),
    });
    this.#owned.use(remote);
    return Object.assign(remote, { changes });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#owned.disposeAsync();
  }
}
