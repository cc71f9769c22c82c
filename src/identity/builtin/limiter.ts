/** Lets at most so many pieces of work run at once, and at most so many wait. */
export class Limiter {
  readonly #waiting: (() => void)[] = [];
  readonly #parallel: number;
  readonly #maxWaiting: number;
  readonly #overflow: () => Error;
  #running = 0;

  /** `overflow` makes the error for work that finds the queue full. */
  constructor(parallel: number, maxWaiting: number, overflow: () => Error) {
    this.#parallel = parallel;
    this.#maxWaiting = maxWaiting;
    this.#overflow = overflow;
  }

  /** Runs the work in its turn. *Throws* `overflow()` at once when too many wait. */
  async run<T>(work: () => Promise<T>): Promise<T> {
    await this.#enter();
    try {
      return await work();
    } finally {
      this.#leave();
    }
  }

  async #enter(): Promise<void> {
    if (this.#running < this.#parallel) {
      this.#running += 1;
      return;
    }
    if (this.#waiting.length >= this.#maxWaiting) throw this.#overflow();
    await new Promise<void>((resolve) => this.#waiting.push(resolve));
  }

  #leave(): void {
    const next = this.#waiting.shift();
    // The place passes straight to the next in line, so the count stays.
    if (next) next();
    else this.#running -= 1;
  }
}
