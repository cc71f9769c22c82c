import { setTimeout as sleep } from 'node:timers/promises';
import { describeError, NightlatchError } from '#core/errors.ts';
import type { HostAgent, HostEvent } from '#host/host-agent.ts';
import { ask, unavailable } from '#host/remote/ask.ts';
import { type ConnectionOptions, HostConnection } from '#host/remote/connection.ts';
import { type Verb, verbInWords, verbs } from '#host/remote/verbs.ts';

export type RemoteHostOptions = Omit<ConnectionOptions, 'onEvent'> & {
  /** The connection was made (null) or lost or could not be made (why). Told once for each change. */
  onChange(trouble: string | null): void;
};

/** A call waits so long for a host that is just connecting again, as when its agent was restarted. */
const PATIENCE_MS = 5000;
const PAUSE_MS = { first: 200, longest: 5000 } as const;

/**
 * A host on another machine. Keeps one connection to it, and makes it anew for as long as it takes whenever it breaks;
 * listeners are then told to look again. While there is none, every call fails with host-unavailable.
 */
export class RemoteHost implements AsyncDisposable {
  readonly agent: HostAgent;
  readonly #options: RemoteHostOptions;
  readonly #listeners = new Set<(event: HostEvent) => void>();
  readonly #closing = new AbortController();
  readonly #loop: Promise<void>;
  #connection: HostConnection | null = null;
  #trouble: string | null = 'it was not reached yet';
  #changed = Promise.withResolvers<void>();

  constructor(options: RemoteHostOptions) {
    this.#options = options;
    this.agent = this.#makeAgent();
    this.#loop = this.#keepConnected();
  }

  get isUp(): boolean {
    return this.#connection !== null;
  }

  /** Waits until the host is connected, at most so long. Returns whether it is. */
  async whenUp(withinMs: number): Promise<boolean> {
    const deadline = AbortSignal.any([AbortSignal.timeout(withinMs), this.#closing.signal]);
    const late = new Promise<void>((resolve) => deadline.addEventListener('abort', () => resolve(), { once: true }));
    while (this.#connection === null && !deadline.aborted) await Promise.race([this.#changed.promise, late]);
    return this.#connection !== null;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closing.abort();
    this.#connection?.[Symbol.dispose]();
    await this.#loop;
  }

  /** Every verb of the port, each by the one way there is. */
  #makeAgent(): HostAgent {
    const names = Object.keys(verbs) as Verb[];
    const calls = names.map((verb) => [verb, (...args: readonly unknown[]) => this.#call(verb, args)]);
    const onEvent = (listener: (event: HostEvent) => void) => {
      this.#listeners.add(listener);
      return () => void this.#listeners.delete(listener);
    };
    return { ...Object.fromEntries(calls), onEvent } as HostAgent;
  }

  async #keepConnected(): Promise<void> {
    const { signal } = this.#closing;
    let pauseMs: number = PAUSE_MS.first;
    while (!signal.aborted) {
      try {
        const connection = await HostConnection.open({ ...this.#options, onEvent: (event) => this.#tell(event) });
        pauseMs = PAUSE_MS.first;
        this.#change(connection, null);
        this.#tell({ kind: 'look-again' });
        if (signal.aborted) connection[Symbol.dispose]();
        this.#change(null, await connection.ended);
      } catch (error) {
        this.#change(null, error instanceof NightlatchError ? String(error.details.reason) : describeError(error));
      }
      await sleep(pauseMs, undefined, { signal }).catch(() => {});
      pauseMs = Math.min(pauseMs * 2, PAUSE_MS.longest);
    }
  }

  #change(connection: HostConnection | null, trouble: string | null): void {
    const isNews = trouble !== this.#trouble;
    this.#connection = connection;
    this.#trouble = trouble;
    const { resolve } = this.#changed;
    this.#changed = Promise.withResolvers<void>();
    resolve();
    if (isNews && !this.#closing.signal.aborted) this.#options.onChange(trouble);
  }

  #tell(event: HostEvent): void {
    for (const listener of this.#listeners) listener(event);
  }

  async #call(verb: Verb, args: readonly unknown[]): Promise<unknown> {
    await this.whenUp(PATIENCE_MS);
    if (this.#connection === null) throw unavailable(this.#options.host.name, verbInWords(verb), this.#trouble);
    return await ask(this.#connection, verb, args);
  }
}
