import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { createWriteStream } from 'node:fs';
import { chmod, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { CloudClient } from '#cli/cloud/client.ts';
import type { StorageFormat } from '#core/disk.ts';
import { readCloudsYaml } from '#main/clouds-yaml.ts';
import { destroyState } from '#test/support/destroy-state.ts';
import { programEnvironment } from '#test/support/program-environment.ts';
import { backendLines, backendsUnderTest, type VolumeBackends } from '#test/support/volume-backends.ts';
import { clearVolumeGroup, thinPool, volumeGroup } from '#test/support/volume-group.ts';

export type ServiceOptions = {
  /** When absent, what NIGHTLATCH_TEST_IMAGES_TYPE says, or qcow2. `lvm`: see `volumeGroup`. */
  readonly imagesType?: StorageFormat;
  /** Seconds a guest gets for its own shutdown. */
  readonly shutdownTimeout?: number;
  /** A folder that is there and outlives the service; the state of an earlier one in it is gone on with. */
  readonly home?: string;
  /** More lines of the group `DEFAULT`. */
  readonly defaults?: string;
  /** Whether it runs guests on its own machine. */
  readonly localHost?: boolean;
  /** More lines of the group `libvirt`, then whole groups. */
  readonly more?: string;
  /** Where volumes lie. When absent, in the one place that there is by default. */
  readonly backends?: VolumeBackends;
  /** Called with the state directory, which does not exist yet, before the first start. */
  readonly prepare?: (stateDirectory: string) => Promise<void>;
  /** A command line that, with another put after it, ends by becoming that (`exec`). */
  readonly wrapper?: readonly string[];
};

/**
 * What the suites are run over: how servers' disks lie, the format of encrypted ones, and who decrypts them where it may be
 * QEMU or the kernel.
 */
export const imagesTypeUnderTest = (process.env.NIGHTLATCH_TEST_IMAGES_TYPE ?? 'qcow2') as StorageFormat;
export const formatUnderTest = process.env.NIGHTLATCH_TEST_FORMAT ?? 'luks';
export const luksEngineUnderTest = process.env.NIGHTLATCH_TEST_LUKS_ENGINE ?? 'qemu';

const START_TIMEOUT_MS = 60_000;
const CRASH_TIMEOUT_MS = 180_000;
const NIGHTLATCH = ['src/cli/main.ts', 'serve', '--config'];

/**
 * The real service as a process of its own, on a data directory of its own. When its scope ends, everything it started
 * is ended and removed: guests, libvirt, PostgreSQL, mounts.
 */
export class TestService implements AsyncDisposable {
  readonly directory: string;
  readonly configFile: string;
  readonly logFile: string;
  url = '';
  #child: ChildProcess | null = null;
  readonly imagesType: StorageFormat;
  readonly backends: VolumeBackends;
  readonly #wrapper: readonly string[];
  readonly #isKept: boolean;

  private constructor(directory: string, { home, imagesType, backends, wrapper }: ServiceOptions) {
    this.directory = directory;
    this.#isKept = home !== undefined;
    this.imagesType = imagesType ?? imagesTypeUnderTest;
    this.backends = backendsUnderTest(backends);
    this.#wrapper = wrapper ?? [];
    this.configFile = join(directory, 'nightlatch.toml');
    this.logFile = join(directory, 'service.log');
  }

  /** By how much everything may take longer: on logical volumes a second kernel runs it, where a new process is dear. */
  get patience(): number {
    return this.hasLogicalVolumes ? 6 : 1;
  }

  get hasLogicalVolumes(): boolean {
    return this.imagesType === 'lvm' || Object.values(this.backends).includes('lvm');
  }

  get stateDirectory(): string {
    return join(this.directory, 's');
  }

  get cloudsFile(): string {
    return join(this.stateDirectory, 'clouds.yaml');
  }

  static async start(options: ServiceOptions = {}): Promise<TestService> {
    // A short path: the sockets below it have at most 107 characters.
    const directory = options.home ?? (await mkdtemp('/var/tmp/nl-'));
    await chmod(directory, 0o711);
    const service = new TestService(directory, options);
    await writeFile(service.configFile, configText(service, options));
    try {
      await options.prepare?.(service.stateDirectory);
      await service.launch();
    } catch (error) {
      await service[Symbol.asyncDispose]();
      throw error;
    }
    return service;
  }

  /** Starts the process; on return it serves. `environment` may name a crash point. */
  async launch(environment: Record<string, string> = {}): Promise<void> {
    const child = this.spawn(environment);
    const deadline = Date.now() + START_TIMEOUT_MS * this.patience;
    const before = this.url;
    this.url = '';
    while (this.url === '') {
      if (child.exitCode !== null || child.signalCode !== null || Date.now() > deadline) {
        throw new Error(
          `the service did not start (it served at ${before} before): ${(await this.log()).slice(-3000)}`,
        );
      }
      await sleep(20);
      this.url = lastAddress(await this.log(), child.pid);
    }
  }

  /** Starts the process and does not wait for it: for a start that a crash point will end. */
  spawn(environment: Record<string, string> = {}): ChildProcess {
    const [program = '', ...args] = [...this.#wrapper, process.execPath, ...NIGHTLATCH, this.configFile];
    const child = spawn(program, args, {
      env: { ...programEnvironment(), NIGHTLATCH_CRASH_AT: `@${this.#crashFile}`, ...environment },
      stdio: ['ignore', 'ignore', 'pipe'],
    });
    const log = createWriteStream(this.logFile, { flags: 'a' });
    log.write(`pid ${child.pid}\n`);
    child.stderr?.pipe(log);
    this.#child = child;
    return child;
  }

  async client(): Promise<CloudClient> {
    const login = { ...(await readCloudsYaml(this.cloudsFile)), authUrl: `${this.url}/identity/v3` };
    return new CloudClient(login, null, this.patience);
  }

  /** Everything the service logged, over all its starts. */
  async log(): Promise<string> {
    return await readFile(this.logFile, 'utf8').catch(() => '');
  }

  get pid(): number | undefined {
    return this.#child?.pid;
  }

  /** Ends the process by a signal and waits; returns its exit code, null when a signal ended it. */
  async end(signal: 'SIGTERM' | 'SIGINT' | 'SIGKILL'): Promise<number | null> {
    const child = this.#child;
    if (!child || child.exitCode !== null || child.signalCode !== null) return child?.exitCode ?? null;
    child.kill(signal);
    await once(child, 'exit');
    return child.exitCode;
  }

  /** Has the process kill itself at the point while it serves the request, and starts it again. */
  async crashAt(
    point: string,
    request: () => Promise<unknown>,
    meanwhile: () => Promise<void> = async () => {},
  ): Promise<void> {
    await writeFile(this.#crashFile, point);
    // The answer may never come: the process can be dead before it is sent.
    await request().catch(() => {});
    await this.ended(CRASH_TIMEOUT_MS);
    await rm(this.#crashFile);
    await meanwhile();
    await this.launch();
  }

  get #crashFile(): string {
    return join(this.directory, 'crash-at');
  }

  /** Waits until the process has ended by itself, as at a crash point. */
  async ended(timeoutMs: number): Promise<void> {
    const child = this.#child;
    if (!child || child.exitCode !== null || child.signalCode !== null) return;
    await once(child, 'exit', { signal: AbortSignal.timeout(timeoutMs * this.patience) });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.end('SIGKILL');
    await destroyState(this.stateDirectory);
    if (this.hasLogicalVolumes) await clearVolumeGroup();
    if (!this.#isKept) await rm(this.directory, { recursive: true, force: true });
  }
}

const groupOptions = [`images_volume_group = "${volumeGroup}"`, `images_thin_pool = "${thinPool}"`];

function configText(
  { stateDirectory, imagesType, backends, hasLogicalVolumes }: TestService,
  { shutdownTimeout, localHost, defaults, more }: ServiceOptions,
): string {
  return [
    '[DEFAULT]',
    `state_path = "${stateDirectory}"`,
    'host = "testhost"',
    `shutdown_timeout = ${shutdownTimeout ?? 20}`,
    `local_host = ${localHost ?? true}`,
    defaults ?? '',
    '[api]',
    'listen = "127.0.0.1:0"',
    '[libvirt]',
    `images_type = "${imagesType}"`,
    ...(imagesType === 'lvm' ? groupOptions : []),
    ...(hasLogicalVolumes ? [`luks_engine = "${luksEngineUnderTest}"`] : []),
    'virt_type = "qemu"',
    more ?? '',
    ...backendLines(backends),
  ].join('\n');
}

/** The address that the process with this id said it serves at; empty until it has. */
function lastAddress(log: string, pid: number | undefined): string {
  const own = log.slice(log.lastIndexOf(`pid ${pid}\n`));
  return /^nightlatch serves at (\S+)$/m.exec(own)?.[1] ?? '';
}
