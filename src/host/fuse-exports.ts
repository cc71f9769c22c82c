import type { ChildProcess } from 'node:child_process';
import { access, mkdir, readdir, readFile, realpath, rm, writeFile } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { type HostPath, isUuid } from '#core/ids.ts';
import type { Secret } from '#core/secret.ts';
import { failure, missing, run, start } from '#host/exec.ts';
import { hasCode, ignoring, removeFolderIfEmpty } from '#host/files.ts';
import { exportArgument, findExportProcesses, signalExportProcess } from '#host/fuse-process.ts';
import { parseMountInfo } from '#host/mount-info.ts';
import { runPaths } from '#host/run-directory.ts';

/** QEMU's description of the node to export (`-blockdev` options); `key-secret` in it is `key`. */
export type BlockNode = { readonly driver: string; readonly [option: string]: unknown };

const READY_TIMEOUT_MS = 30_000;
/** How long a flush of everything written may take before the process is killed. */
const STOP_TIMEOUT_MS = 30_000;
const POLL_MS = 3;
/** Exit code of umount(8) for "not mounted", which is what we want. */
const UMOUNT_FAILED = 32;
/** Exit code of setpriv(1) when the program it should start does not exist. */
const SETPRIV_NOT_FOUND = 127;

/**
 * Disks shown as plain files, `<run directory>/unlocked/<disk id>/disk`, each by a `qemu-storage-daemon` of its own that
 * reads and writes the medium through the layers it is told.
 *
 * The process holds the key, and nothing else does. It dies with the thread that started it, so that a killed service
 * locks at once; what stays behind then is a dead mount, which `exported` lists and `withdraw` removes.
 */
export class FuseExports {
  readonly #folder: string;
  readonly #children = new Map<string, ChildProcess>();
  readonly #turns = new Map<string, Promise<unknown>>();

  constructor({ runDirectory }: { readonly runDirectory: HostPath }) {
    this.#folder = runPaths(runDirectory).unlocked;
  }

  /**
   * Shows a disk as a file and returns its path. *Repeat*: the earlier export is withdrawn first.
   * *Throws* program-missing; program-failed, with what QEMU says in its detail `stderr`.
   */
  export(diskId: string, node: BlockNode, key: Secret | null, doing: string): Promise<HostPath> {
    return this.#inTurn(diskId, async () => {
      await this.#withdraw(diskId);
      try {
        return await this.#start(diskId, node, key, doing);
      } catch (error) {
        await this.#withdraw(diskId);
        throw error;
      }
    });
  }

  /** Ends an export: everything written is on the medium, the key is gone. *Repeat*: one that is not there is fine. */
  withdraw(diskId: string): Promise<void> {
    return this.#inTurn(diskId, () => this.#withdraw(diskId));
  }

  /** The ids of disks of which there is a process, a mount or a folder. */
  async exported(): Promise<string[]> {
    const folder = await this.#realFolder();
    const [names, mounts, processes] = await Promise.all([
      readdir(folder).catch((error: unknown) => ignoring('ENOENT')(error) ?? []),
      mountedBelow(folder),
      findExportProcesses(folder),
    ]);
    const paths = [...mounts, ...processes.map(({ mountpoint }) => mountpoint)];
    return [...new Set([...names, ...paths.map((path) => basename(dirname(path)))])].filter(isUuid).sort();
  }

  async #start(diskId: string, node: BlockNode, key: Secret | null, doing: string): Promise<HostPath> {
    const path = await this.#path(diskId);
    await mkdir(dirname(path), { recursive: true, mode: 0o700 });
    await writeFile(path, '', { mode: 0o600 });
    const secret = key === null ? [] : ['--object', 'secret,id=key,file=/dev/fd/3'];
    const blockdev = JSON.stringify({ ...node, 'node-name': 'disk' });
    const daemon = ['qemu-storage-daemon', ...secret, '--blockdev', blockdev, '--export', exportArgument(path)];
    const child = start('setpriv', ['--pdeathsig', 'SIGKILL', '--', ...daemon], key === null ? {} : { fd3: key });
    this.#children.set(diskId, child);
    child.once('close', () => this.#children.get(diskId) === child && this.#children.delete(diskId));
    await untilMounted(child, path, doing);
    return path;
  }

  async #withdraw(diskId: string): Promise<void> {
    const path = await this.#path(diskId);
    // An export is never without its folder, and looking for strays means to read every process's command line.
    if (!(await exists(dirname(path)))) return;
    const child = this.#children.get(diskId);
    if (child) await stopChild(child);
    else await stopStrays(path);
    if (await isMounted(path)) {
      await run('umount', ['--lazy', path], { doing: `Locking disk ${diskId}`, tolerate: [UMOUNT_FAILED] });
    }
    await rm(path, { force: true });
    await removeFolderIfEmpty(dirname(path));
  }

  async #path(diskId: string): Promise<HostPath> {
    if (!isUuid(diskId)) throw new Error('a disk id that is no UUID must not become a path');
    return join(await this.#realFolder(), diskId, 'disk') as HostPath;
  }

  /** The kernel lists mounts by their real path. */
  async #realFolder(): Promise<string> {
    return realpath(this.#folder).catch((error: unknown) => {
      if (hasCode(error, 'ENOENT')) return this.#folder;
      throw error;
    });
  }

  /** One thing at a time for each disk. */
  async #inTurn<T>(diskId: string, work: () => Promise<T>): Promise<T> {
    const before = this.#turns.get(diskId) ?? Promise.resolve();
    const turn = before.then(work, work);
    this.#turns.set(diskId, turn);
    try {
      return await turn;
    } finally {
      if (this.#turns.get(diskId) === turn) this.#turns.delete(diskId);
    }
  }
}

/** Waits until the file at `path` is the export. *Throws* what the process says when it ends instead. */
async function untilMounted(child: ChildProcess, path: string, doing: string): Promise<void> {
  const ended = endOf(child, doing);
  const deadline = Date.now() + READY_TIMEOUT_MS;
  while (!(await isMounted(path))) {
    if (Date.now() > deadline) {
      throw failure('qemu-storage-daemon', doing, {
        code: 0,
        stdout: '',
        stderr: 'it did not export the disk in time',
      });
    }
    const failed = await Promise.race([ended, delay(POLL_MS, null)]);
    if (failed) throw failed;
  }
  letGo(child);
}

/** Settles when the process has ended or could not be started, with the error that tells why. */
function endOf(child: ChildProcess, doing: string): Promise<Error> {
  const { promise, resolve } = Promise.withResolvers<Error>();
  let stderr = '';
  child.stdout?.resume();
  child.stderr?.setEncoding('utf8').on('data', (text: string) => {
    stderr = (stderr + text).slice(-4096);
  });
  child.once('error', (error) => resolve(hasCode(error, 'ENOENT') ? missing('setpriv', doing) : error));
  child.once('close', (code) => {
    if (code === SETPRIV_NOT_FOUND) return resolve(missing('qemu-storage-daemon', doing));
    resolve(failure('qemu-storage-daemon', doing, { code: code ?? 128, stdout: '', stderr }));
  });
  return promise;
}

/** Lets the service end while the export stands; the kernel then ends the export. */
function letGo(child: ChildProcess): void {
  child.unref();
  for (const stream of [child.stdout, child.stderr])
    if (stream && 'unref' in stream) (stream as { unref(): void }).unref();
}

async function stopChild(child: ChildProcess): Promise<void> {
  const hasEnded = () => child.exitCode !== null || child.signalCode !== null;
  child.ref();
  child.kill('SIGTERM');
  if (await holdsWithin(STOP_TIMEOUT_MS, hasEnded)) return;
  child.kill('SIGKILL');
  await holdsWithin(STOP_TIMEOUT_MS, hasEnded);
}

/** Ends processes that an earlier life of the service left behind. */
async function stopStrays(path: string): Promise<void> {
  for (const stray of (await findExportProcesses(dirname(path))).filter(({ mountpoint }) => mountpoint === path)) {
    const hasEnded = async () => !(await signalExportProcess(stray, 0));
    await signalExportProcess(stray, 'SIGTERM');
    if (await holdsWithin(STOP_TIMEOUT_MS, hasEnded)) continue;
    await signalExportProcess(stray, 'SIGKILL');
    await holdsWithin(STOP_TIMEOUT_MS, hasEnded);
  }
}

async function holdsWithin(timeoutMs: number, condition: () => boolean | Promise<boolean>): Promise<boolean> {
  const deadline = Date.now() + timeoutMs;
  while (!(await condition())) {
    if (Date.now() > deadline) return false;
    await delay(POLL_MS);
  }
  return true;
}

async function exists(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    (error: unknown) => {
      if (hasCode(error, 'ENOENT')) return false;
      throw error;
    },
  );
}

async function isMounted(path: string): Promise<boolean> {
  return (await mountedBelow(dirname(path))).includes(path);
}

async function mountedBelow(folder: string): Promise<string[]> {
  const mounts = parseMountInfo(await readFile('/proc/self/mountinfo', 'utf8'));
  return mounts.flatMap(({ path, type }) => (type.startsWith('fuse') && path.startsWith(`${folder}/`) ? [path] : []));
}
