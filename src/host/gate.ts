import { access, open } from 'node:fs/promises';
import { dirname } from 'node:path';
import { NightlatchError } from '#core/errors.ts';
import type { HostName, HostPath } from '#core/ids.ts';
import { hasCode, removeFile, syncFolder } from '#host/files.ts';

/**
 * Closed while a host is being locked: nothing on it may be unlocked then. It is a file, durable, so that it stays closed
 * whoever closed it and whatever became of them, until somebody has finished locking.
 */
export class Gate {
  readonly #host: HostName;
  readonly #file: HostPath;
  #inside = 0;

  constructor(host: HostName, file: HostPath) {
    this.#host = host;
    this.#file = file;
  }

  /** Does what brings a key or a plaintext onto the host. *Throws* host-locked when the gate is closed. */
  async admit<T>(doing: string, work: () => Promise<T>): Promise<T> {
    // Counted before it looks, so that whoever closes the gate and then counts misses nobody.
    this.#inside++;
    try {
      if (await this.isClosed()) throw new NightlatchError('host-locked', { doing, host: this.#host });
      return await work();
    } finally {
      this.#inside--;
    }
  }

  /** So many that were admitted have not ended. */
  get inside(): number {
    return this.#inside;
  }

  async isClosed(): Promise<boolean> {
    return access(this.#file).then(
      () => true,
      (error: unknown) => {
        if (hasCode(error, 'ENOENT')) return false;
        throw error;
      },
    );
  }

  /** *Repeat*: fine. */
  async close(): Promise<void> {
    await using file = await open(this.#file, 'a', 0o600);
    await file.sync();
    await syncFolder(dirname(this.#file));
  }

  /** *Repeat*: fine. */
  open(): Promise<void> {
    return removeFile(this.#file);
  }
}
