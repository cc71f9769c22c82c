import type { ChildProcess } from 'node:child_process';
import { NightlatchError } from '#core/errors.ts';
import { forkWorker } from '#host/exec.ts';
import type { Notice } from './protocol.ts';

export type FeedEvent = Extract<Notice, { kind: 'lifecycle' }> | { readonly kind: 'reconnected' };

const FIRST_PAUSE_MS = 100;
const LONGEST_PAUSE_MS = 5000;
const WORKER = new URL('./event-worker.ts', import.meta.url);

/**
 * Keeps one process listening to libvirt's events, and starts another whenever it ends, with growing pauses while
 * libvirt does not answer. After every gap it says `reconnected`.
 */
export class EventFeed implements AsyncDisposable {
  readonly #uri: string;
  readonly #listener: (event: FeedEvent) => void;
  #child: ChildProcess | null = null;
  #timer: NodeJS.Timeout | undefined;
  #pauseMs = FIRST_PAUSE_MS;
  #connectedBefore = false;
  #reason = 'it was not asked yet';
  #closed = false;
  readonly #firstConnection = Promise.withResolvers<void>();

  constructor(uri: string, listener: (event: FeedEvent) => void) {
    this.#uri = uri;
    this.#listener = listener;
    this.#listen();
  }

  /** Resolves when events arrive. @throws hypervisor-unavailable when that takes longer than `timeoutMs`. */
  async connected(timeoutMs: number): Promise<void> {
    const late = setTimeout(() => {
      const details = { doing: "Listening to libvirt's events", reason: this.#reason };
      this.#firstConnection.reject(new NightlatchError('hypervisor-unavailable', details));
    }, timeoutMs);
    await this.#firstConnection.promise.finally(() => clearTimeout(late));
  }

  /** The process id of the listener that lives now. */
  get workerPid(): number | undefined {
    return this.#child?.pid;
  }

  #listen(): void {
    const child = forkWorker(WORKER, [this.#uri]);
    this.#child = child;
    child.on('message', (notice) => this.#take(notice as Notice));
    child.on('error', () => {});
    child.once('exit', (code, signal) => {
      if (this.#closed) return;
      if (signal === null) this.#reason = `the process that speaks to it ended with exit code ${code}`;
      this.#timer = setTimeout(() => this.#listen(), this.#pauseMs);
      this.#pauseMs = Math.min(2 * this.#pauseMs, LONGEST_PAUSE_MS);
    });
  }

  #take(notice: Notice): void {
    if (notice.kind === 'lifecycle') this.#listener(notice);
    if (notice.kind === 'unreachable') this.#reason = notice.reason;
    if (notice.kind !== 'connected') return;
    this.#pauseMs = FIRST_PAUSE_MS;
    this.#firstConnection.resolve();
    if (this.#connectedBefore) this.#listener({ kind: 'reconnected' });
    this.#connectedBefore = true;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closed = true;
    clearTimeout(this.#timer);
    const child = this.#child;
    if (child === null || child.exitCode !== null || child.signalCode !== null) return;
    const { promise, resolve } = Promise.withResolvers<void>();
    child.once('exit', () => resolve());
    child.kill('SIGKILL');
    await promise;
  }
}
