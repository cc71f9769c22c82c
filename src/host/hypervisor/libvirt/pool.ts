import type { ChildProcess } from 'node:child_process';
import { NightlatchError } from '#core/errors.ts';
import type { Secret } from '#core/secret.ts';
import { forkWorker, giveKey } from '#host/exec.ts';
import type { CallName, Calls, Reply, Request } from './protocol.ts';

export type CallOptions = {
  /** What is being done, as the start of an error message: "Starting server 7…". */
  readonly doing: string;
  /** For `setSecrets`. Reaches the worker by a pipe of its own. */
  readonly key?: Secret;
  /** After this time the worker is ended and the call fails. */
  readonly timeoutMs?: number;
};

type Job = {
  readonly request: Request;
  readonly options: CallOptions;
  readonly resolve: (result: unknown) => void;
  readonly reject: (error: NightlatchError) => void;
  /** Workers that died before they began it. */
  deaths: number;
};
type Worker = { readonly child: ChildProcess; job: Job | null; begun: boolean; timer: NodeJS.Timeout | undefined };

const CALL_TIMEOUT_MS = 120_000;
/** A worker that cannot even begin, for want of the library, is not replaced for ever. */
const DEATHS_LIMIT = 3;
const WORKER = new URL('./worker.ts', import.meta.url);

/**
 * Makes libvirt calls in up to `size` worker processes, which it starts when they are needed and replaces when they die.
 *
 * A call whose worker dies, or whose connection breaks, is rejected with hypervisor-unavailable: it may or may not have
 * taken effect. One whose worker died before it began is given to another. The next call connects anew.
 */
export class LibvirtPool implements AsyncDisposable {
  readonly #uri: string;
  readonly #size: number;
  readonly #workers = new Set<Worker>();
  readonly #waiting: Job[] = [];
  #lastId = 0;
  #closed = false;

  constructor(uri: string, size = 4) {
    this.#uri = uri;
    this.#size = size;
  }

  /** @throws hypervisor-unavailable; disk-full; hypervisor-failed, with libvirt's words, when libvirt refused. */
  call<Name extends CallName>(
    name: Name,
    args: Calls[Name]['args'],
    options: CallOptions,
  ): Promise<Calls[Name]['result']> {
    const { promise, resolve, reject } = Promise.withResolvers<unknown>();
    const keyBytes = options.key?.use((bytes) => bytes.length) ?? 0;
    const request: Request = { id: ++this.#lastId, name, args, keyBytes };
    this.#waiting.push({ request, options, resolve, reject, deaths: 0 });
    this.#assign();
    return promise as Promise<Calls[Name]['result']>;
  }

  /** The process ids of the workers that live now. */
  get workerPids(): number[] {
    return [...this.#workers].flatMap(({ child }) => child.pid ?? []);
  }

  #assign(): void {
    while (this.#waiting.length > 0) {
      if (this.#closed) {
        for (const job of this.#waiting.splice(0)) job.reject(unavailable(job, 'the service is ending'));
        return;
      }
      const worker = [...this.#workers].find(({ job }) => job === null) ?? this.#grow();
      const job = worker && this.#waiting.shift();
      if (!worker || !job) return;
      this.#give(worker, job);
    }
  }

  #grow(): Worker | null {
    if (this.#workers.size >= this.#size) return null;
    const worker: Worker = { child: forkWorker(WORKER, [this.#uri]), job: null, begun: false, timer: undefined };
    this.#workers.add(worker);
    worker.child.on('message', (reply) => this.#take(worker, reply as Reply));
    worker.child.on('exit', (code, signal) => this.#bury(worker, signal ?? `exit code ${code}`));
    // Such as a message to a process that has just died: its exit tells the story.
    worker.child.on('error', () => {});
    worker.child.stdio[4]?.on('error', () => {});
    return worker;
  }

  #give(worker: Worker, job: Job): void {
    worker.job = job;
    worker.begun = false;
    const timeoutMs = job.options.timeoutMs ?? CALL_TIMEOUT_MS;
    worker.timer = setTimeout(() => this.#giveUp(worker, job, timeoutMs), timeoutMs);
    if (job.options.key) giveKey(worker.child, job.options.key);
    // An error here means that the worker is dead; `exit` follows.
    worker.child.send(job.request, () => {});
  }

  #take(worker: Worker, reply: Reply): void {
    const job = worker.job;
    if (job?.request.id !== reply.id) return;
    if (reply.kind === 'begun') {
      worker.begun = true;
      return;
    }
    this.#release(worker);
    if (reply.kind === 'done') job.resolve(reply.result);
    else job.reject(reply.lost ? unavailable(job, reply.message) : refused(job, reply.message));
    this.#assign();
  }

  #bury(worker: Worker, how: string): void {
    this.#workers.delete(worker);
    const job = this.#release(worker);
    if (job && !worker.begun && ++job.deaths < DEATHS_LIMIT && !this.#closed) this.#waiting.unshift(job);
    else job?.reject(unavailable(job, `the process that speaks to it ended with ${how}`));
    this.#assign();
  }

  #giveUp(worker: Worker, job: Job, timeoutMs: number): void {
    this.#release(worker);
    job.reject(unavailable(job, `no answer within ${timeoutMs / 1000} s`));
    this.#workers.delete(worker);
    worker.child.kill('SIGKILL');
    this.#assign();
  }

  #release(worker: Worker): Job | null {
    clearTimeout(worker.timer);
    const job = worker.job;
    worker.job = null;
    return job;
  }

  /** Ends the workers; calls under way are rejected. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#closed = true;
    this.#assign();
    const ends = [...this.#workers].map(({ child }) => {
      const { promise, resolve } = Promise.withResolvers<void>();
      child.once('exit', () => resolve());
      child.kill('SIGKILL');
      return promise;
    });
    await Promise.all(ends);
  }
}

function unavailable({ options }: Job, reason: string): NightlatchError {
  return new NightlatchError('hypervisor-unavailable', { doing: options.doing, reason });
}

function refused({ options: { doing } }: Job, reason: string): NightlatchError {
  if (/No space left on device/.test(reason)) {
    return new NightlatchError('disk-full', { doing, where: "the host's data directory" });
  }
  return new NightlatchError('hypervisor-failed', { doing, reason });
}
