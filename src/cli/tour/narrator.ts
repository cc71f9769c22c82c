import { NightlatchError } from '#core/errors.ts';

/** One thing that was looked at, and what was found there, in words with figures. */
export type Evidence = {
  readonly lookedAt: string;
  readonly found: string;
  /** The promise that this bears out; such evidence comes back in the table at the end. */
  readonly promise?: string;
};

/** What a step hands to the next ones, and what it shows. */
export type Told<T> = { readonly value: T; readonly evidence: readonly Evidence[] };

export type StepName =
  | 'service'
  | 'image'
  | 'flavor'
  | 'server'
  | 'disks'
  | 'stop'
  | 'start'
  | 'suspend'
  | 'resume'
  | 'poweroff'
  | 'delete'
  | 'audit';

/** How the tour reaches its audience: a person, or a program. */
export interface Audience {
  begin(step: StepName, title: string): void;
  /** What goes on within a long step. */
  progress(line: string): void;
  done(step: StepName, ms: number, evidence: readonly Evidence[]): void;
  failed(step: StepName, ms: number, reason: string): void;
}

/** A step did not show what it is there to show. Its own message is for the audience. */
export class StepFailed extends Error {
  readonly step: StepName;
  override readonly name = 'StepFailed';

  constructor(step: StepName, reason: string, options: ErrorOptions) {
    super(reason, options);
    this.step = step;
  }
}

/** The reason of a step that was not failing, but was stopped by Ctrl-C. */
export const INTERRUPTED = 'interrupted';

/** How long a step that was interrupted may take to come to its end. */
const SETTLE_MS = 30_000;

/** Tells steps one after another to an audience, until `stop` is aborted. */
export class Narrator {
  readonly #audience: Audience;
  readonly #stop: AbortSignal;
  readonly #shown: Evidence[] = [];

  constructor(audience: Audience, stop: AbortSignal) {
    this.#audience = audience;
    this.#stop = stop;
  }

  /** All evidence so far, in order. */
  get shown(): readonly Evidence[] {
    return this.#shown;
  }

  progress(line: string): void {
    this.#audience.progress(line);
  }

  /** Runs one step and tells it. @throws StepFailed, also when it was interrupted. */
  async step<T>(name: StepName, title: string, run: () => Promise<Told<T>>): Promise<T> {
    this.#audience.begin(name, title);
    const started = performance.now();
    const elapsed = () => Math.round(performance.now() - started);
    try {
      const { value, evidence } = await this.#unlessStopped(run);
      this.#shown.push(...evidence);
      this.#audience.done(name, elapsed(), evidence);
      return value;
    } catch (error) {
      const reason = this.#stop.aborted ? INTERRUPTED : describe(error);
      this.#audience.failed(name, elapsed(), reason);
      throw new StepFailed(name, reason, { cause: error });
    }
  }

  /** A stop ends the wait at once, but not before the step has let go of what it was doing. */
  async #unlessStopped<T>(run: () => Promise<T>): Promise<T> {
    this.#stop.throwIfAborted();
    const running = run();
    const { promise: stopped, resolve } = Promise.withResolvers<'stopped'>();
    const onStop = () => resolve('stopped');
    this.#stop.addEventListener('abort', onStop, { once: true });
    try {
      const first = await Promise.race([running, stopped]);
      if (first !== 'stopped') return first;
      await Promise.race([running.catch(() => {}), pause(SETTLE_MS)]);
      throw this.#stop.reason;
    } finally {
      this.#stop.removeEventListener('abort', onStop);
    }
  }
}

/** @throws with `otherwise` when the condition does not hold. */
export function must(condition: boolean, otherwise: string): asserts condition {
  if (!condition) throw new ShownOtherwise(otherwise);
}

/** What a step found is not what Nightlatch promises. */
class ShownOtherwise extends Error {
  override readonly name = 'ShownOtherwise';
}

/** A failure from the catalogue or of a check in its own words; anything else is a bug, or the network, with its cause. */
function describe(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  if (error instanceof NightlatchError || error.cause === undefined) return error.message;
  return `${error.message} (${describe(error.cause)})`;
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms).unref());
}
