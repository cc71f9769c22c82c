import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { NightlatchError } from '#core/errors.ts';
import type { HostPath } from '#core/ids.ts';
import { run, startDaemon } from '#host/exec.ts';
import { ignoring } from '#host/files.ts';
import { readCommandLine, signalProcess } from '#host/processes.ts';
import { checkRoot, prepareRunDirectory, runPaths } from '#host/run-directory.ts';
import { daemonConfig } from './daemon-config.ts';
import { learnAboutQemu } from './learn-qemu.ts';

export type PrivateLibvirtOptions = {
  /** Prepared by `prepareRunDirectory`. */
  readonly runDirectory: HostPath;
  /** Persistent. Keeps what libvirt learnt about QEMU, so that the next start takes a fraction of a second. */
  readonly cacheDirectory: HostPath;
  /** How long it may ask QEMU what it can do; longer means that QEMU hangs. */
  readonly learnTimeoutMs?: number;
  /** Told when a daemon that died cannot be started again; the next attempt follows. Or what it asked of QEMU was in vain. */
  readonly onTrouble: (error: unknown) => void;
};

type DaemonName = 'virtlogd' | 'libvirtd';

const NAMESPACE_SCRIPT = fileURLToPath(new URL('./private-namespace.sh', import.meta.url));
const WATCH_INTERVAL_MS = 500;
const START_TIMEOUT_MS = 30_000;
const LEARN_TIMEOUT_MS = 60_000;
const STOP_TIMEOUT_MS = 10_000;
const POLL_MS = 20;

/**
 * A libvirt of our own: libvirtd and virtlogd in mount namespaces where every folder they use is ours, so that a
 * libvirt that is on the machine is neither seen nor touched.
 *
 * The daemons and the guests outlive this process; the next one adopts them. While this object lives, a daemon that
 * dies is started again; libvirtd then finds its guests by itself, and a guest's console log goes on only from its next
 * start when it was virtlogd.
 */
export class PrivateLibvirt implements AsyncDisposable {
  readonly #options: PrivateLibvirtOptions;
  readonly #state: HostPath;
  #starting: Promise<void> | null = null;
  #learning: Promise<void> = Promise.resolve();
  readonly #closing = new AbortController();
  #timer: NodeJS.Timeout | undefined;

  private constructor(options: PrivateLibvirtOptions) {
    this.#options = options;
    this.#state = runPaths(options.runDirectory).libvirt;
  }

  /**
   * Starts the daemons, or adopts those a former process left running; on return they take connections.
   *
   * @throws root-required; program-missing; hypervisor-unavailable, with the end of the daemon's log.
   */
  static async start(options: PrivateLibvirtOptions): Promise<PrivateLibvirt> {
    checkRoot('Starting a private libvirt');
    await prepareRunDirectory(options.runDirectory);
    const libvirt = new PrivateLibvirt(options);
    await libvirt.ensure();
    libvirt.#timer = setInterval(() => libvirt.ensure().catch(options.onTrouble), WATCH_INTERVAL_MS);
    libvirt.#timer.unref();
    return libvirt;
  }

  /** Whether a libvirtd of this run directory runs, whoever started it. */
  static async runs(options: PrivateLibvirtOptions): Promise<boolean> {
    return (await new PrivateLibvirt(options).#pid('libvirtd')) !== null;
  }

  /** How to reach the one of this run directory, started or not. */
  static addressIn(options: PrivateLibvirtOptions): { readonly uri: string; readonly libvirtdPidFile: HostPath } {
    const { uri, libvirtdPidFile } = new PrivateLibvirt(options);
    return { uri, libvirtdPidFile };
  }

  /** Ends the daemons that a service which is gone left running, also those that hang; guests run on. *Repeat*: fine. */
  static async endLeftOver(options: PrivateLibvirtOptions): Promise<void> {
    await new PrivateLibvirt(options).stop();
  }

  /** What a libvirt client connects to. */
  get uri(): string {
    return `qemu+unix:///system?socket=${encodeURIComponent(this.#socket('libvirtd'))}`;
  }

  get libvirtdPidFile(): HostPath {
    return this.#pidFile('libvirtd');
  }

  /** Starts what does not run. *Repeat*: fine, also at the same time. */
  async ensure(): Promise<void> {
    this.#starting ??= this.#ensureBoth().finally(() => {
      this.#starting = null;
    });
    await this.#starting;
  }

  /** Ends the daemons; guests run on. *Repeat*: fine. */
  async stop(): Promise<void> {
    await this[Symbol.asyncDispose]();
    for (const name of ['libvirtd', 'virtlogd'] as const) await this.#stopDaemon(name);
  }

  /** Stops watching; the daemons go on. */
  async [Symbol.asyncDispose](): Promise<void> {
    clearInterval(this.#timer);
    await this.#starting?.catch(() => {});
    this.#closing.abort();
    await this.#learning;
  }

  async #ensureBoth(): Promise<void> {
    for (const name of ['virtlogd', 'libvirtd'] as const) {
      if ((await this.#pid(name)) === null) await this.#startDaemon(name);
    }
  }

  async #startDaemon(name: DaemonName): Promise<void> {
    await this.#writeFolders();
    const doing = `Starting ${name}`;
    await run(name, ['--version'], { doing });
    const log = `${this.#state}/${name}.log` as HostPath;
    const pid = await startDaemon('tini', this.#commandLine(name), doing, log);
    const deadline = Date.now() + START_TIMEOUT_MS;
    while (!((await this.#pid(name)) !== null && (await answers(this.#socket(name))))) {
      const gone = !isAlive(pid);
      if (gone || Date.now() > deadline) throw await failedToStart(name, log, gone);
      await sleep(POLL_MS);
    }
    if (name === 'libvirtd') this.#learning = this.#learn();
  }

  /** Nobody waits for it but who needs it. */
  async #learn(): Promise<void> {
    const { learnTimeoutMs = LEARN_TIMEOUT_MS, onTrouble } = this.#options;
    const limits = { timeoutMs: learnTimeoutMs, signal: this.#closing.signal };
    await learnAboutQemu(this.uri, `${this.#state}/lib` as HostPath, limits).catch(onTrouble);
  }

  /**
   * tini as subreaper: a QEMU that ended stays a zombie until the process it was handed to collects it, and libvirt waits
   * for that. Where process 1 is no real init (containers, some virtual machines) it takes seconds, or for ever.
   */
  #commandLine(name: DaemonName): string[] {
    const reaper = ['-s', '--'];
    const namespace = ['unshare', '--mount', '--propagation', 'slave', '--', '/bin/sh', NAMESPACE_SCRIPT];
    const daemon = [name, '-f', this.#configFile(name), '-p', this.#pidFile(name)];
    return [...reaper, ...namespace, this.#state, this.#options.cacheDirectory, ...daemon];
  }

  async #writeFolders(): Promise<void> {
    await mkdir(this.#options.cacheDirectory, { recursive: true, mode: 0o700 });
    for (const folder of ['etc/secrets', 'run', 'lib/qemu', 'log/qemu', 'empty']) {
      await mkdir(`${this.#state}/${folder}`, { recursive: true, mode: 0o700 });
    }
    for (const [file, content] of Object.entries(daemonConfig()))
      await writeFile(`${this.#state}/etc/${file}`, content);
  }

  async #stopDaemon(name: DaemonName): Promise<void> {
    const deadline = Date.now() + STOP_TIMEOUT_MS;
    for (let pid = await this.#pid(name); pid !== null; pid = await this.#pid(name)) {
      signalProcess(pid, Date.now() > deadline ? 'SIGKILL' : 'SIGTERM');
      await sleep(POLL_MS);
    }
  }

  /** The daemon's process, when its pid file names a live process that was started with our configuration. */
  async #pid(name: DaemonName): Promise<number | null> {
    const pid = Number((await readText(this.#pidFile(name))).trim());
    if (!Number.isInteger(pid) || pid <= 1) return null;
    const commandLine = (await readCommandLine(pid)).split('\0');
    return commandLine.includes(this.#configFile(name)) ? pid : null;
  }

  #configFile(name: DaemonName): HostPath {
    return `${this.#state}/etc/${name}.conf` as HostPath;
  }

  #pidFile(name: DaemonName): HostPath {
    return `${this.#state}/${name}.pid` as HostPath;
  }

  #socket(name: DaemonName): HostPath {
    return `${this.#state}/run/${name === 'libvirtd' ? 'libvirt' : name}-sock` as HostPath;
  }
}

async function readText(path: string): Promise<string> {
  return readFile(path, 'utf8').catch((error: unknown) => ignoring('ENOENT')(error) ?? '');
}

function isAlive(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch {
    return false;
  }
}

async function answers(socket: HostPath): Promise<boolean> {
  const { promise, resolve } = Promise.withResolvers<boolean>();
  const client = connect(socket);
  client.once('connect', () => resolve(true));
  client.once('error', () => resolve(false));
  return promise.finally(() => client.destroy());
}

async function failedToStart(name: DaemonName, log: HostPath, gone: boolean): Promise<NightlatchError> {
  const end = (await readText(log)).trim().split('\n').slice(-3).join(' ');
  const reason = `${gone ? 'it ended at once' : 'it did not answer in time'}: ${end}`;
  return new NightlatchError('hypervisor-unavailable', { doing: `Starting ${name}`, reason });
}
