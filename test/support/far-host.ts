import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { createWriteStream } from 'node:fs';
import { chmod, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { destroyState } from '#test/support/destroy-state.ts';
import { nightlatch } from '#test/support/nightlatch-command.ts';
import type { TestService } from '#test/support/service.ts';
import { waitUntil } from '#test/support/wait.ts';

export type FarHostOptions = {
  readonly name?: string;
  readonly imagesType?: 'raw' | 'qcow2';
  /** More groups of its configuration. */
  readonly more?: string;
};

/** How a host gets its certificate: files in `folder`, known to whoever will connect to `address`. */
export type Enroll = (name: string, folder: string, address: string) => Promise<void>;

/** As an operator does it. */
export function enrollWith(service: TestService): Enroll {
  return async (name, folder, address) => {
    const where = ['--address', address, '--out', folder, '--config', service.configFile];
    const { code, stderr } = await nightlatch('host', 'enroll', name, ...where);
    assert.equal(code, 0, stderr);
  };
}

/**
 * A compute host of a service, as a process of its own with a data directory of its own: the real `nightlatch host-agent`
 * with the files that `nightlatch host enroll` made. When its scope ends, its guests and all else it started are gone.
 */
export class FarHost implements AsyncDisposable {
  readonly name: string;
  readonly directory: string;
  readonly port: number;
  readonly #configFile: string;
  readonly #logFile: string;
  #child: ChildProcess | null = null;

  private constructor(name: string, directory: string, port: number) {
    this.name = name;
    this.directory = directory;
    this.port = port;
    this.#configFile = join(directory, 'nightlatch.toml');
    this.#logFile = join(directory, 'agent.log');
  }

  get stateDirectory(): string {
    return join(this.directory, 's');
  }

  /** Enrolls a host and starts its agent. */
  static async start(enroll: Enroll, options: FarHostOptions = {}): Promise<FarHost> {
    const directory = await mkdtemp('/var/tmp/nl-');
    await chmod(directory, 0o711);
    const host = new FarHost(options.name ?? 'far', directory, await freePort());
    try {
      await enroll(host.name, directory, `127.0.0.1:${host.port}`);
      await writeFile(host.#configFile, host.#config(options));
      await host.launch();
      return host;
    } catch (error) {
      await host[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** Starts the agent; on return it waits for the control plane. `environment` may name a crash point. */
  async launch(environment: Record<string, string> = {}): Promise<void> {
    const child = spawn(process.execPath, ['src/cli/main.ts', 'host-agent', '--config', this.#configFile], {
      env: { PATH: process.env.PATH ?? '', ...environment },
      stdio: ['ignore', 'ignore', 'pipe'],
    });
    this.#child = child;
    const log = createWriteStream(this.#logFile, { flags: 'a' });
    log.write(`pid ${child.pid}\n`);
    child.stderr?.pipe(log);
    const waits = async () => {
      const own = (await this.log()).split(`pid ${child.pid}\n`)[1] ?? '';
      if (child.exitCode !== null) throw new Error(`the host agent ended: ${own}`);
      return own.includes('waits for the control plane');
    };
    await waitUntil('the host agent listens', waits, 60_000);
  }

  get pid(): number | undefined {
    return this.#child?.pid;
  }

  async log(): Promise<string> {
    return await readFile(this.#logFile, 'utf8').catch(() => '');
  }

  /** Ends the agent by a signal and waits; returns its exit code, null when a signal ended it. */
  async end(signal: 'SIGTERM' | 'SIGKILL'): Promise<number | null> {
    const child = this.#child;
    if (!child || child.exitCode !== null || child.signalCode !== null) return child?.exitCode ?? null;
    child.kill(signal);
    await once(child, 'exit');
    return child.exitCode;
  }

  /** Waits until the agent has ended by itself, as at a crash point. */
  async ended(timeoutMs: number): Promise<void> {
    const child = this.#child;
    if (!child || child.exitCode !== null || child.signalCode !== null) return;
    await once(child, 'exit', { signal: AbortSignal.timeout(timeoutMs) });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.end('SIGKILL');
    await destroyState(this.stateDirectory);
    await rm(this.directory, { recursive: true, force: true });
  }

  #config({ imagesType = 'qcow2', more = '' }: FarHostOptions): string {
    return [
      '[DEFAULT]',
      `state_path = "${this.stateDirectory}"`,
      `host = "${this.name}"`,
      '[libvirt]',
      `images_type = "${imagesType}"`,
      'virt_type = "qemu"',
      '[host_agent]',
      `listen = "127.0.0.1:${this.port}"`,
      `certificate = "${this.directory}/host.crt"`,
      `key = "${this.directory}/host.key"`,
      `ca = "${this.directory}/ca.crt"`,
      more,
    ].join('\n');
  }
}

/** A port that nobody has now. */
export async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  server.close();
  await once(server, 'close');
  assert.ok(address !== null && typeof address === 'object');
  return address.port;
}
