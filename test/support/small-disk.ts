import { mkdir, rm, statfs, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { GIB } from '#core/sizes.ts';
import { run } from '#host/exec.ts';
import { command } from '#test/support/command.ts';

const doing = 'Preparing a file system for a test';

/**
 * A real file system of 8 GiB that can be made as full as a test needs; it takes no room itself. Folders of it stand in
 * for folders of a data directory; whoever unmounts those ends it.
 */
export class SmallDisk {
  readonly #root: string;

  private constructor(root: string) {
    this.#root = root;
  }

  /** Mounts at `<folder>/small`, below the data directory of a test, which unmounts it with the rest. */
  static async mount(folder: string): Promise<SmallDisk> {
    const root = join(folder, 'small');
    const image = `${root}.img`;
    await mkdir(root, { recursive: true });
    await writeFile(image, '');
    await truncate(image, 8 * GIB);
    command('mkfs.ext4', ['-q', '-F', '-m', '0', '-O', '^has_journal', image]);
    command('mount', ['-o', 'loop', image, root]);
    return new SmallDisk(root);
  }

  /** Makes `path` a folder of this file system. */
  async holds(path: string): Promise<void> {
    const folder = join(this.#root, path.replaceAll('/', '-'));
    await mkdir(folder, { mode: 0o700 });
    await mkdir(path, { recursive: true, mode: 0o711 });
    command('mount', ['--bind', folder, path]);
  }

  /** Fills it up, but for this many bytes, rounded down to whole blocks. */
  async leave(bytes: number): Promise<void> {
    await this.empty();
    const room = await this.free();
    if (room <= bytes) throw new Error(`only ${room} bytes are free`);
    await run('fallocate', ['--length', String(room), this.#ballast], { doing, tolerate: [1] });
    // Blocks that describe the ballast itself come on top: what is left is made exact by cutting it.
    const missing = bytes - (await this.free());
    if (missing > 0) await run('fallocate', ['--punch-hole', '--length', String(missing), this.#ballast], { doing });
  }

  async empty(): Promise<void> {
    await rm(this.#ballast, { force: true });
  }

  async free(): Promise<number> {
    const { bavail, bsize } = await statfs(this.#root);
    return bavail * bsize;
  }

  get #ballast(): string {
    return join(this.#root, 'ballast');
  }
}
