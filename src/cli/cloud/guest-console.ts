/** A guest's serial console over the compute API's WebSocket. Lines are kept from the moment it opens. */
export class GuestConsole implements Disposable {
  readonly #socket: WebSocket;
  readonly #waiters = new Set<() => void>();
  #text = '';
  #closed = false;

  private constructor(socket: WebSocket) {
    this.#socket = socket;
    const decoder = new TextDecoder();
    socket.addEventListener('message', ({ data }) => {
      this.#text += typeof data === 'string' ? data : decoder.decode(data, { stream: true });
      this.#wake();
    });
    socket.addEventListener('close', () => {
      this.#closed = true;
      this.#wake();
    });
  }

  /** @throws when the address is not, or no longer, good for a connection. */
  static async open(url: string): Promise<GuestConsole> {
    const socket = new WebSocket(url, ['binary']);
    socket.binaryType = 'arraybuffer';
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    socket.addEventListener('open', () => resolve(), { once: true });
    socket.addEventListener('error', () => reject(new Error('the serial console cannot be opened')), { once: true });
    const opened = new GuestConsole(socket);
    await promise;
    return opened;
  }

  /** Sends text as it is; returns the first match in what the guest writes from then on. @throws after the timeout. */
  async exchange(text: string, answer: RegExp, timeoutMs = 10_000): Promise<RegExpExecArray> {
    this.#text = '';
    this.#socket.send(new TextEncoder().encode(text));
    return await this.#until(() => answer.exec(this.#text), `an answer like ${answer}`, timeoutMs);
  }

  /** Sends a command line; returns the first whole line from then on that matches. @throws after the timeout. */
  async ask(command: string, answer: RegExp, timeoutMs = 30_000): Promise<RegExpExecArray> {
    this.#text = '';
    this.#socket.send(new TextEncoder().encode(`${command}\n`));
    return await this.line(answer, timeoutMs);
  }

  /** Waits for a whole line that matches. @throws after the timeout, with the end of what was read. */
  async line(wanted: RegExp, timeoutMs = 60_000): Promise<RegExpExecArray> {
    const find = () => {
      const lines = this.#text.split('\n').slice(0, -1);
      for (const line of lines) {
        const match = wanted.exec(line.trimEnd());
        if (match) return match;
      }
      return null;
    };
    return await this.#until(find, `a line like ${wanted}`, timeoutMs);
  }

  async #until<T>(find: () => T | null, what: string, timeoutMs: number): Promise<T> {
    const deadline = Date.now() + timeoutMs;
    for (;;) {
      const found = find();
      if (found !== null) return found;
      const left = deadline - Date.now();
      if (left <= 0 || this.#closed) {
        const why = this.#closed ? 'the console closed' : `${timeoutMs / 1000} s passed`;
        throw new Error(`${why} without ${what}; the last it said: ${this.#text.slice(-500)}`);
      }
      await this.#change(left);
    }
  }

  [Symbol.dispose](): void {
    this.#socket.close();
  }

  #change(timeoutMs: number): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    const timer = setTimeout(resolve, timeoutMs);
    this.#waiters.add(resolve);
    return promise.finally(() => {
      clearTimeout(timer);
      this.#waiters.delete(resolve);
    });
  }

  #wake(): void {
    for (const waiter of this.#waiters) waiter();
  }
}
