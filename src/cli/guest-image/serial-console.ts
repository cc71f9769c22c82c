import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';

const RETRY_MS = 50;

/** The other end of a guest's serial port: what the guest prints is kept until it was waited for. */
export class SerialConsole implements Disposable {
  readonly #socket: Socket;
  #text = '';
  #ended = false;
  #wake = Promise.withResolvers<void>();

  private constructor(socket: Socket) {
    this.#socket = socket;
    socket.setEncoding('latin1');
    socket.on('data', (text: string) => this.#changed(text));
    socket.on('error', () => this.#changed('', true));
    socket.on('close', () => this.#changed('', true));
  }

  /** Connects to a UNIX socket, which may still have to appear. @throws when it has not within `timeoutMs`. */
  static async open(path: string, timeoutMs: number): Promise<SerialConsole> {
    const deadline = Date.now() + timeoutMs;
    for (;;) {
      const socket = connect(path);
      try {
        await once(socket, 'connect');
        return new SerialConsole(socket);
      } catch (error) {
        if (Date.now() > deadline) throw error;
        await delay(RETRY_MS);
      }
    }
  }

  /** Types a line. */
  send(line: string): void {
    this.#socket.write(`${line}\n`);
  }

  /**
   * The first match in the lines that the guest has printed since the last match.
   *
   * @throws when the guest ends, or `timeoutMs` pass, before there is one; the error shows the end of what it printed.
   */
  async waitFor(pattern: RegExp, timeoutMs: number): Promise<RegExpExecArray> {
    const deadline = AbortSignal.timeout(timeoutMs);
    const late = once(deadline, 'abort');
    for (;;) {
      // Only whole lines: of a number, the first digits alone would match too.
      const match = pattern.exec(this.#text.slice(0, this.#text.lastIndexOf('\n') + 1));
      if (match) {
        this.#text = this.#text.slice(match.index + match[0].length);
        return match;
      }
      if (this.#ended) throw this.#missed(pattern, 'the guest ended');
      if (deadline.aborted) throw this.#missed(pattern, `${timeoutMs / 1000} s passed`);
      await Promise.race([this.#wake.promise, late]);
    }
  }

  /** Types a line and waits for the answer. */
  async ask(line: string, answer: RegExp, timeoutMs: number): Promise<RegExpExecArray> {
    this.send(line);
    return this.waitFor(answer, timeoutMs);
  }

  [Symbol.dispose](): void {
    this.#socket.destroy();
  }

  #changed(text: string, ended = false): void {
    this.#text += text.replaceAll('\r', '');
    this.#ended ||= ended;
    this.#wake.resolve();
    this.#wake = Promise.withResolvers<void>();
  }

  #missed(pattern: RegExp, reason: string): Error {
    return new Error(`waiting for ${pattern} on the serial console: ${reason}. It printed: ${this.#text.slice(-2000)}`);
  }
}
