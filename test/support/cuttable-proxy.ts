import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net';

/** A way between two ends that can be cut as a network is: packets vanish, and nobody is told. */
export class CuttableProxy implements AsyncDisposable {
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  #isCut = false;

  private constructor(server: Server, target: number) {
    this.#server = server;
    server.on('connection', (near) => {
      this.#sockets.add(near);
      if (this.#isCut) return;
      const far = connect(target, '127.0.0.1');
      this.#sockets.add(far);
      for (const [from, to] of [
        [near, far],
        [far, near],
      ] as const) {
        from.on('data', (chunk) => this.#isCut || to.write(chunk));
        from.on('close', () => this.#isCut || to.destroy());
        from.on('error', () => {});
      }
    });
  }

  static async to(target: number): Promise<CuttableProxy> {
    const server = createServer();
    const proxy = new CuttableProxy(server, target);
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    return proxy;
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port;
  }

  /** From now on nothing gets through, on no connection, old or new. */
  cut(): void {
    this.#isCut = true;
  }

  /** New connections get through again; those from before stay as dead as they are. */
  mend(): void {
    for (const socket of this.#sockets) socket.removeAllListeners('data').resume();
    this.#isCut = false;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    this.#server.close();
    await once(this.#server, 'close');
  }
}
