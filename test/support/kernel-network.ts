import { execFileSync } from 'node:child_process';
import { randomInt } from 'node:crypto';

/**
 * A network of two machines, this one and a second kernel, that can be cut. The kernel makes the device on this side
 * itself, so that it vanishes with the kernel, however that ends.
 */
export class KernelNetwork {
  readonly device = `nl${randomInt(0x1000_0000, 0xffff_ffff).toString(16)}`;
  readonly outside: string;
  readonly inside: string;

  constructor() {
    // One of the private networks of two that nobody else is likely to have.
    const net = `10.${randomInt(200, 250)}.${randomInt(256)}`;
    const first = randomInt(64) * 4;
    this.outside = `${net}.${first + 1}`;
    this.inside = `${net}.${first + 2}`;
  }

  /** What the kernel is started with. */
  get kernelArgument(): string {
    return `vec0:transport=tap,ifname=${this.device},depth=128`;
  }

  /** What is to be run inside; the device on this side is there after that. */
  get insideCommand(): string {
    return `ip addr add ${this.inside}/30 dev vec0 && ip link set vec0 up`;
  }

  /** Afterwards. Segments longer than a packet would not get through to it. */
  setUp(): void {
    this.#ip('link', 'set', this.device, 'gso_max_segs', '1');
    this.#ip('addr', 'add', `${this.outside}/30`, 'dev', this.device);
    this.mend();
  }

  /** Packets vanish from now on. */
  cut(): void {
    this.#ip('link', 'set', this.device, 'down');
  }

  mend(): void {
    this.#ip('link', 'set', this.device, 'up');
  }

  #ip(...args: string[]): void {
    execFileSync('ip', args);
  }
}
