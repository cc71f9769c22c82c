import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { copyFile, mkdir, mkdtemp, open, readFile, rm, writeFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { createInterface } from 'node:readline';
import type { Readable, Writable } from 'node:stream';
import type { TestContext } from 'node:test';
import { fileURLToPath } from 'node:url';
import { judge, parseTestResults } from '#test/support/test-results.ts';

export type SecondKernelOptions = {
  /**
   * Each extra disk, in the order of `disks`: the bytes of an empty one, a file with holes in memory that ends with the
   * kernel; or the path of a file that is there and stays.
   */
  readonly disks?: readonly (number | string)[];
  readonly memoryMib?: number;
};

export type JobOutcome = { readonly code: number; readonly stdout: string; readonly stderr: string };
export type JobOptions = { readonly stdin?: string | Uint8Array; readonly timeoutMs?: number };

const START_TIMEOUT_MS = 60_000;
const JOB_TIMEOUT_MS = 60_000;
const STOP_TIMEOUT_MS = 5000;
const here = (name: string) => fileURLToPath(new URL(name, import.meta.url));
const CHECKOUT = resolve(here('../..'));

/**
 * A Linux kernel of its own, with device-mapper, dm-crypt and LVM whatever the machine's kernel lacks: User Mode Linux
 * (Debian's user-mode-linux), which is a process like any other. Inside, root; the host's files as they are, writable
 * there and unchanged here; one processor; no network but loopback.
 *
 * When its scope ends, or this process does in whatever way, every process and file of it is gone.
 */
export class SecondKernel implements AsyncDisposable {
  /** A folder in memory that both sides see at the same path. */
  readonly exchange: string;
  /** Device nodes of the extra disks, inside. */
  readonly disks: readonly string[];
  readonly #kernel: ChildProcess;
  readonly #janitor: ChildProcess;
  readonly #waiting = new Map<string, () => void>();
  readonly #ended: Promise<never>;
  #jobs = 0;

  private constructor(exchange: string, disks: readonly string[], kernel: ChildProcess, janitor: ChildProcess) {
    this.exchange = exchange;
    this.disks = disks;
    this.#kernel = kernel;
    this.#janitor = janitor;
    this.#ended = once(kernel, 'close').then(async () => {
      throw new Error(`the second kernel ended: ${await this.#consoleEnd()}`);
    });
    this.#ended.catch(() => {});
    createInterface({ input: kernel.stdio[4] as Readable }).on('line', (line) => {
      const id = line.trim().replace(/^done /, '');
      this.#waiting.get(id)?.();
      this.#waiting.delete(id);
    });
  }

  static async start({ disks = [], memoryMib = 1024 }: SecondKernelOptions = {}): Promise<SecondKernel> {
    const exchange = await mkdtemp('/dev/shm/nightlatch-kernel-');
    const janitor = startJanitor(exchange);
    await mkdir(join(exchange, 'jobs'));
    await copyFile(here('./second-kernel-jobs.sh'), join(exchange, 'jobs.sh'));
    const images = await Promise.all(
      disks.map((disk, i) => (typeof disk === 'string' ? disk : makeDiskImage(join(exchange, `disk${i}`), disk))),
    );
    const nodes = images.map((_, i) => `/dev/ubd${letter(i)}`);
    const kernel = new SecondKernel(exchange, nodes, await startKernel(exchange, images, memoryMib), janitor);
    try {
      await kernel.#told('ready', START_TIMEOUT_MS, 'booting');
      return kernel;
    } catch (error) {
      await kernel[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** Runs a program inside to its end. *Throws* when it takes too long or the kernel ends. */
  async run(program: string, args: readonly string[], options: JobOptions = {}): Promise<JobOutcome> {
    const id = `job${this.#jobs++}`;
    const folder = join(this.exchange, 'jobs', id);
    await mkdir(folder);
    await writeFile(join(folder, 'argv'), [program, ...args].map((word) => `${word}\0`).join(''));
    await writeFile(join(folder, 'stdin'), options.stdin ?? '');
    const done = this.#told(id, options.timeoutMs ?? JOB_TIMEOUT_MS, `running ${program} ${args.join(' ')}`);
    (this.#kernel.stdio[3] as Writable).write(`${id}\n`);
    await done;
    const [code, stdout, stderr] = await Promise.all(
      ['code', 'stdout', 'stderr'].map((name) => readFile(join(folder, name), 'utf8')),
    );
    await rm(folder, { recursive: true });
    return { code: Number(code), stdout: stdout ?? '', stderr: stderr ?? '' };
  }

  /** As `run`; a program that fails is an error here. Returns what it printed. */
  async must(program: string, ...args: readonly string[]): Promise<string> {
    const { code, stdout, stderr } = await this.run(program, args);
    assert.equal(code, 0, `${program} ${args.join(' ')} ended with ${code}: ${stderr}`);
    return stdout;
  }

  /**
   * Runs test files inside and gives every test in them to `t` as one of its own. A test that was skipped or left for
   * later, a file without tests and a run that stopped half-way are failures.
   */
  async runTests(
    t: TestContext,
    files: readonly string[],
    { env = {}, timeoutMs = 600_000 }: { env?: Readonly<Record<string, string>>; timeoutMs?: number } = {},
  ): Promise<void> {
    const variables = Object.entries(env).map(([name, value]) => `${name}=${value}`);
    const command = [...variables, process.execPath, here('./run-tests.ts'), ...files];
    const outcome = await this.run('env', [`--chdir=${CHECKOUT}`, ...command], { timeoutMs });
    const results = parseTestResults(outcome.stdout);
    for (const result of results) await t.test(result.name, () => judge(result));
    assert.equal(outcome.code, 0, `the tests did not run to their end: ${outcome.stderr}`);
    for (const file of files) {
      const count = results.filter((result) => result.file === file).length;
      assert.ok(count > 0, `${file} has no tests inside the second kernel`);
    }
  }

  /** Ends the kernel as a power cut does: what has reached its disks is there, nothing else, and nobody is told. */
  async cutPower(): Promise<void> {
    const closed = once(this.#kernel, 'close');
    this.#kernel.kill('SIGKILL');
    await closed;
    await this[Symbol.asyncDispose]();
  }

  get #hasEnded(): boolean {
    return this.#kernel.exitCode !== null || this.#kernel.signalCode !== null;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (!this.#hasEnded) {
      const closed = once(this.#kernel, 'close');
      (this.#kernel.stdio[3] as Writable).write('poweroff\n');
      const late = setTimeout(() => this.#kernel.kill('SIGKILL'), STOP_TIMEOUT_MS);
      await closed;
      clearTimeout(late);
    }
    if (this.#janitor.exitCode !== null) return;
    const gone = once(this.#janitor, 'close');
    this.#janitor.stdin?.end();
    await gone;
  }

  async #told(id: string, timeoutMs: number, doing: string): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#waiting.set(id, resolve);
    const late = Promise.withResolvers<never>();
    const timer = setTimeout(async () => {
      late.reject(new Error(`${doing} took more than ${timeoutMs} ms: ${await this.#consoleEnd()}`));
    }, timeoutMs);
    try {
      await Promise.race([promise, this.#ended, late.promise]);
    } finally {
      clearTimeout(timer);
      this.#waiting.delete(id);
    }
  }

  async #consoleEnd(): Promise<string> {
    const text = await readFile(join(this.exchange, 'console'), 'utf8').catch(() => '');
    const lines = text.split('\n').filter((line) => !/^\s*(\[<|[0-9a-f]{8} )/.test(line));
    return lines.slice(-20).join('\n');
  }
}

/**
 * Programs between us and the kernel: `setpriv` ends it with us, `taskset` binds it, `unshare` gives it a process namespace, so that
 * all of the many processes it is end together, and `sh` is that namespace's first process, because as such User Mode
 * Linux would not get the signals it sends itself, and would wait for them for ever.
 */
async function startKernel(exchange: string, images: readonly string[], memoryMib: number): Promise<ChildProcess> {
  const kernel = [
    'linux.uml',
    `mem=${memoryMib}M`,
    ...['root=/dev/root', 'rootfstype=hostfs', 'rootflags=/', 'ro', 'quiet'],
    ...['con=null', 'con0=null,fd:1', 'ssl=null', 'ssl0=fd:3,fd:4'],
    // Those since 6.16 know it, and need no ptrace(2) then.
    'seccomp=auto',
    ...images.map((image, i) => `ubd${letter(i)}=${image}`),
    // Where it keeps its own notes.
    `uml_dir=${exchange}/`,
    'umid=kernel',
    `nightlatch_exchange=${exchange}`,
    `nightlatch_checkout=${CHECKOUT}`,
    `init=${here('./second-kernel-init.sh')}`,
  ];
  const namespace = ['unshare', '--pid', '--fork', '--kill-child=SIGKILL', '--', 'sh', '-c', '"$@"; exit $?', 'sh'];
  await using log = await open(join(exchange, 'console'), 'w');
  // It has one processor and is many processes that hand work to each other: bound to one of ours, it is twice as fast.
  const bound = ['taskset', '--cpu-list', await someCpu()];
  const child = spawn('setpriv', ['--pdeathsig', 'SIGKILL', '--', ...bound, ...namespace, ...kernel], {
    // Its memory is a file in TMPDIR, deleted at once.
    env: { PATH: process.env.PATH, TMPDIR: '/dev/shm' },
    stdio: ['ignore', log.fd, log.fd, 'pipe', 'pipe'],
  });
  for (const fd of [3, 4]) child.stdio[fd]?.on('error', () => {});
  await once(child, 'spawn');
  return child;
}

/** One of the processors that this process may use, by chance, so that two kernels may have one each. */
async function someCpu(): Promise<string> {
  const [, list = '0'] = /^Cpus_allowed_list:\s*(\S+)$/m.exec(await readFile('/proc/self/status', 'utf8')) ?? [];
  const cpus = list.split(',').flatMap((range) => {
    const [first = 0, last = first] = range.split('-').map(Number);
    return Array.from({ length: last - first + 1 }, (_, i) => first + i);
  });
  return String(cpus[Math.floor(Math.random() * cpus.length)]);
}

/** Removes the folder when our end of the pipe closes, which happens also when this process is killed. */
function startJanitor(folder: string): ChildProcess {
  const wait = 'read -r _; for _ in 1 2 3 4 5; do rm -rf -- "$1" && exit; sleep 0.2; done';
  return spawn('sh', ['-c', wait, 'sh', folder], { detached: true, stdio: ['pipe', 'ignore', 'ignore'] });
}

/** An empty disk for a second kernel. */
export async function makeDiskImage(path: string, bytes: number): Promise<string> {
  await using file = await open(path, 'wx');
  await file.truncate(bytes);
  return path;
}

function letter(index: number): string {
  return String.fromCharCode('a'.charCodeAt(0) + index);
}
