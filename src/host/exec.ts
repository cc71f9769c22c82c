import { type ChildProcess, fork, spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, constants, openSync } from 'node:fs';
import { access, stat } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { NightlatchError } from '#core/errors.ts';
import type { HostPath } from '#core/ids.ts';
import type { Secret } from '#core/secret.ts';
import { admit, helperFor } from '#host/grant.ts';
import { runByHelper } from '#host/helper-client.ts';
import { keyPipe } from '#host/key-pipe.ts';
import type { GivenInput } from '#host/privilege.ts';
import type { HelperProgram, PrivilegedProgram } from '#host/privileged-shapes.ts';

/**
 * The only file that starts a program. Every program is named here with the Debian package that brings it; arguments
 * are a list, never a shell line; the environment is empty but for `PATH` and `LC_ALL=C`; a key reaches a program by
 * standard input or by descriptor 3, never by its arguments. Those in privileged-shapes.ts run by its shapes only.
 */
const programs = {
  cryptsetup: 'cryptsetup-bin',
  dmsetup: 'dmsetup',
  lvcreate: 'lvm2',
  lvremove: 'lvm2',
  lvextend: 'lvm2',
  lvs: 'lvm2',
  vgs: 'lvm2',
  lvmconfig: 'lvm2',
  blkdiscard: 'util-linux',
  shred: 'coreutils',
  cp: 'coreutils',
  ceph: 'ceph-common',
  rbd: 'ceph-common',
  'ceph-conf': 'ceph-common',
  'qemu-img': 'qemu-utils',
  'qemu-io': 'qemu-utils',
  'qemu-storage-daemon': 'qemu-system-common',
  'qemu-system-x86_64': 'qemu-system-x86',
  'mkfs.ext4': 'e2fsprogs',
  mkswap: 'util-linux',
  xorrisofs: 'xorriso',
  mount: 'mount',
  umount: 'mount',
  unshare: 'util-linux',
  nsenter: 'util-linux',
  'apt-cache': 'apt',
  'apt-get': 'apt',
  'dpkg-deb': 'dpkg',
  cpio: 'cpio',
  mke2fs: 'e2fsprogs',
  mformat: 'mtools',
  mcopy: 'mtools',
  sfdisk: 'fdisk',
  syslinux: 'syslinux',
  openssl: 'openssl',
  openstack: 'python3-openstackclient',
  useradd: 'passwd',
  prlimit: 'util-linux',
  setpriv: 'util-linux',
  libvirtd: 'libvirt-daemon',
  tini: 'tini',
  fallocate: 'util-linux',
  virtlogd: 'libvirt-daemon',
  virsh: 'libvirt-clients',
} as const;

export type Program = keyof typeof programs;

/** The Debian package that brings a program. */
export function packageOf(program: Program): string {
  return programs[program];
}

/** Whether a program is installed where `run` would find it. */
export async function hasProgram(program: Program): Promise<boolean> {
  const found = await Promise.allSettled(
    PATH.split(':').map((folder) => access(`${folder}/${program}`, constants.X_OK)),
  );
  return found.some(({ status }) => status === 'fulfilled');
}

/** What tells the installed build of a program from another one; null: it is not installed. */
export async function buildOf(program: Program): Promise<string | null> {
  for (const folder of PATH.split(':')) {
    const found = await stat(`${folder}/${program}`).catch(() => null);
    if (found) return `${found.size} bytes of ${found.mtimeMs}`;
  }
  return null;
}

export type RunOptions = {
  /** What is being done, as the start of an error message: "Formatting disk 7…". */
  readonly doing: string;
  /** Sent to standard input; nothing else is. */
  readonly stdin?: Secret;
  /** Text for standard input that is not a key; not together with `stdin`. */
  readonly input?: string;
  /** The folder the program works in, for programs that write where they stand. */
  readonly cwd?: string;
  /** Readable by the program as `/dev/fd/3`. */
  readonly fd3?: Secret;
  /** The program is ended after this time; TERM, then KILL. */
  readonly timeoutMs?: number;
  /** The program is ended when it aborts; TERM, then KILL. */
  readonly signal?: AbortSignal;
  /** Exit codes besides 0 that are not a failure; say why at the call. */
  readonly tolerate?: readonly number[];
};

export type Outcome = {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
  /** It was ended because its time was over. */
  readonly isLate?: boolean;
};

const PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';
const OUTPUT_LIMIT = 1024 * 1024;
const KILL_AFTER_MS = 2000;

/**
 * Runs a program to its end.
 *
 * @throws program-missing; disk-full, when it says so; program-failed, with its exit code and the end of its stderr; program-late;
 * privilege-refused; root-helper-required, root-helper-unavailable, root-helper-refused.
 */
export async function run(program: Program, args: readonly string[], options: RunOptions): Promise<Outcome> {
  const runner = admit(program, args, inputOf(options), options.doing);
  const helper = runner === 'helper' ? helperFor(options.doing) : null;
  const outcome = await (helper === null
    ? finish(spawnProgram(program, args, options), program, options)
    : throughHelper(helper, program, args, options));
  if (outcome.code === 0 || options.tolerate?.includes(outcome.code)) return outcome;
  if (outcome.isLate) {
    const seconds = (options.timeoutMs ?? 0) / 1000;
    throw new NightlatchError('program-late', { doing: options.doing, program, seconds });
  }
  throw failure(program, options.doing, outcome);
}

/**
 * For the root helper: runs what is in `helperShapes` and nothing else, to whatever end, here. `signal` ends it early.
 *
 * @throws privilege-refused; program-missing.
 */
export async function runHelperShape(program: string, args: readonly string[], options: RunOptions): Promise<Outcome> {
  if (admit(program, args, inputOf(options), options.doing) !== 'helper') throw notForHelper(program, options.doing);
  const known = program as HelperProgram;
  return await finish(spawnProgram(known, args, options), known, options);
}

async function throughHelper(
  path: HostPath,
  program: Program,
  args: readonly string[],
  options: RunOptions,
): Promise<Outcome> {
  const { answer, stdout, stderr } = await runByHelper(path, { program, args, ...options });
  switch (answer.kind) {
    case 'ended':
      return { code: answer.code, stdout, stderr };
    case 'missing':
      throw missing(program, options.doing);
    case 'refused':
    case 'failed':
      throw new NightlatchError('root-helper-refused', { doing: options.doing, reason: answer.reason });
  }
}

function notForHelper(program: string, doing: string): NightlatchError {
  return new NightlatchError('root-helper-refused', { doing, reason: `${program} is no program of the root helper` });
}

function inputOf({ stdin, input }: RunOptions): GivenInput {
  if (stdin) return { kind: 'key' };
  return input === undefined ? { kind: 'none' } : { kind: 'text', text: input };
}

type Given = Pick<RunOptions, 'stdin' | 'fd3' | 'input' | 'cwd'> & {
  /** The caller writes its standard input. */
  readonly isFed?: true;
};

/** Starts a program that needs no privilege. Its standard output and error are the caller's to read. */
export function start(
  program: Exclude<Program, PrivilegedProgram>,
  args: readonly string[],
  options: Given,
): ChildProcess {
  return spawnProgram(program, args, options);
}

function spawnProgram(program: Program, args: readonly string[], options: Given): ChildProcess {
  const keyFd = options.fd3 ? keyPipe(options.fd3) : null;
  try {
    const child = spawn(program, args, {
      env: { PATH, LC_ALL: 'C' },
      ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
      stdio: [
        options.stdin || options.input !== undefined || options.isFed ? 'pipe' : 'ignore',
        'pipe',
        'pipe',
        ...(keyFd === null ? [] : [keyFd]),
      ],
    });
    hand(child, 0, options.stdin);
    if (options.input !== undefined) child.stdin?.on('error', () => {}).end(options.input);
    return child;
  } finally {
    if (keyFd !== null) closeSync(keyFd);
  }
}

/**
 * Starts a program that outlives this process, in a session of its own, so that Ctrl-C in our terminal does not reach
 * it. What it prints goes to the end of the file `log`. Returns its process id.
 *
 * @throws program-missing.
 */
export async function startDaemon(
  program: Exclude<Program, PrivilegedProgram>,
  args: readonly string[],
  doing: string,
  log: HostPath,
): Promise<number> {
  const fd = openSync(log, 'a', 0o600);
  try {
    const child = spawn(program, args, { env: { PATH, LC_ALL: 'C' }, detached: true, stdio: ['ignore', fd, fd] });
    await once(child, 'spawn').catch((error: NodeJS.ErrnoException) => {
      throw error.code === 'ENOENT' ? missing(program, doing) : error;
    });
    child.unref();
    return child.pid as number;
  } finally {
    closeSync(fd);
  }
}

/** Starts a module of ours as a process with a message channel; what `giveKey` sends, it reads from descriptor 4. */
export function forkWorker(module: URL, args: readonly string[]): ChildProcess {
  return fork(fileURLToPath(module), args, {
    env: { PATH, LC_ALL: 'C' },
    execArgv: [],
    serialization: 'advanced',
    stdio: ['ignore', 'ignore', 'inherit', 'ipc', 'pipe'],
  });
}

/** Lends a key to a process started by `forkWorker`. The caller may zero it right after. */
export function giveKey(worker: ChildProcess, key: Secret): void {
  const pipe = worker.stdio[4] as NodeJS.WritableStream | null | undefined;
  key.use((bytes) => pipe?.write(bytes));
}

/** Lends a key to a pipe. The kernel copies it during the call, so that the caller may zero it right after. */
function hand(child: ChildProcess, fd: number, key: Secret | undefined): void {
  if (!key) return;
  const pipe = child.stdio[fd] as NodeJS.WritableStream | null;
  // A program that ends before it has read its key breaks the pipe; its exit code tells the story.
  pipe?.on('error', () => {});
  key.use((bytes) => pipe?.write(bytes));
  pipe?.end();
}

function finish(child: ChildProcess, program: Program, options: RunOptions): Promise<Outcome> {
  const { promise, resolve, reject } = Promise.withResolvers<Outcome>();
  const stdout = collect(child.stdout);
  const stderr = collect(child.stderr);
  const end = () => {
    child.kill('SIGTERM');
    setTimeout(() => child.kill('SIGKILL'), KILL_AFTER_MS).unref();
  };
  let isLate = false;
  const late = () => {
    isLate = true;
    end();
  };
  const timer = options.timeoutMs === undefined ? undefined : setTimeout(late, options.timeoutMs);
  if (options.signal?.aborted) end();
  options.signal?.addEventListener('abort', end);
  child.once('error', (error: NodeJS.ErrnoException) => {
    clearTimeout(timer);
    reject(error.code === 'ENOENT' ? missing(program, options.doing) : error);
  });
  child.once('close', (code, signal) => {
    clearTimeout(timer);
    options.signal?.removeEventListener('abort', end);
    resolve({
      code: code ?? (signal ? 128 : 1),
      stdout: stdout(),
      stderr: signal ? `${stderr()} (${signal})` : stderr(),
      isLate,
    });
  });
  return promise;
}

function collect(stream: NodeJS.ReadableStream | null): () => string {
  const chunks: Buffer[] = [];
  let length = 0;
  stream?.on('data', (chunk: Buffer) => {
    if (length < OUTPUT_LIMIT) chunks.push(chunk);
    length += chunk.length;
  });
  return () => Buffer.concat(chunks).toString('utf8');
}

export function missing(program: Program, doing: string): NightlatchError {
  return new NightlatchError('program-missing', { doing, program, package: programs[program] });
}

/** The catalogue error for a program that failed. */
export function failure(program: Program, doing: string, outcome: Outcome): NightlatchError {
  const stderr = outcome.stderr.trim().split('\n').slice(-5).join(' ');
  if (/No space left on device/i.test(stderr))
    return new NightlatchError('disk-full', { doing, where: "the host's data directory" });
  return new NightlatchError('program-failed', { doing, program, outcome: `exit code ${outcome.code}`, stderr });
}
