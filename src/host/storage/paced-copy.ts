import { stat } from 'node:fs/promises';
import type { HostPath } from '#core/ids.ts';
import { GIB, MIB } from '#core/sizes.ts';
import { run } from '#host/exec.ts';
import type { CopyProgress } from '#host/host-agent.ts';

/** A piece takes about so long: then its speed can be another, and it is known how far the copy is. */
const PIECE_MS = 2000;
const LONG_PIECE_MS = 4000;
const FIRST_PIECE = 64 * MIB;
/** Holes take no time: they are skipped in larger and larger pieces. */
const LARGEST_PIECE = 1024 * GIB;
const PIECE_TIMEOUT_MS = 60 * 60_000;
/** Who asked for one and then not for so long has gone, as when a connection was cut: nobody will take the copy. */
const FORSAKEN_MS = 30_000;

/** What to copy: both show what a disk holds, as `Encryptor.unlock` does. */
export type PlaintextCopy = {
  readonly from: HostPath;
  readonly to: HostPath;
  readonly totalBytes: number;
  /** `to` reads as zeros now, so that zeros need not be written. */
  readonly isZeroed: boolean;
  readonly doing: string;
};

/** A copy that can be watched, slowed down and ended while it is made: `qemu-img` copies it piece by piece. */
export class PacedCopy {
  readonly #copy: PlaintextCopy;
  readonly #end = new AbortController();
  readonly #over = Promise.withResolvers<void>();
  #piece = new AbortController();
  #bytesPerSecond: number;
  #copiedBytes = 0;
  #askedAt: number | null = null;

  constructor(copy: PlaintextCopy, bytesPerSecond: number) {
    this.#copy = copy;
    this.#bytesPerSecond = bytesPerSecond;
  }

  /** How far it is; from now on it goes at most so fast, 0: as fast as it goes. */
  pace(bytesPerSecond: number): CopyProgress {
    this.#askedAt = Date.now();
    // The piece under way is begun again.
    if (bytesPerSecond !== this.#bytesPerSecond) this.#piece.abort();
    this.#bytesPerSecond = bytesPerSecond;
    return { copiedBytes: this.#copiedBytes, totalBytes: this.#copy.totalBytes };
  }

  /** Settles once nobody reads or writes for it any more. */
  end(): Promise<void> {
    this.#end.abort();
    return this.#over.promise;
  }

  /** *Throws* disk-full; program-failed, also when it was ended. */
  async run(): Promise<void> {
    try {
      for (let piece = 0; this.#copiedBytes < this.#copy.totalBytes; ) piece = await this.#copyNext(piece);
    } finally {
      this.#over.resolve();
    }
  }

  /** Copies a piece, which is larger than usual where `wished` says so; returns how large the next is wished to be. */
  async #copyNext(wished: number): Promise<number> {
    if (this.#askedAt !== null && Date.now() - this.#askedAt > FORSAKEN_MS) this.#end.abort();
    const limit = this.#bytesPerSecond;
    const usual = limit === 0 ? FIRST_PIECE : Math.ceil((limit * PIECE_MS) / 1000 / MIB) * MIB;
    const bytes = Math.min(Math.max(wished, usual), this.#copy.totalBytes - this.#copiedBytes);
    const begunAt = Date.now();
    this.#piece = new AbortController();
    // It looked like a hole, and is none.
    const tooLong = AbortSignal.any([
      this.#piece.signal,
      ...(bytes > usual ? [AbortSignal.timeout(LONG_PIECE_MS)] : []),
    ]);
    try {
      await this.#copyPiece(this.#copiedBytes, bytes, limit, tooLong);
    } catch (error) {
      if (this.#end.signal.aborted || !tooLong.aborted) throw error;
      return 0;
    }
    this.#copiedBytes += bytes;
    const tookMs = Date.now() - begunAt;
    if (tookMs < PIECE_MS / 2) return Math.min(bytes * 2, LARGEST_PIECE);
    return tookMs > PIECE_MS * 2 ? 0 : bytes;
  }

  /** `-S 0` writes zeros as data instead of discarding; what is zero already stays sparse. */
  async #copyPiece(offset: number, size: number, limit: number, tooLong: AbortSignal): Promise<void> {
    const { from, to, isZeroed, doing } = this.#copy;
    const piece = async (path: HostPath) => {
      const driver = (await stat(path)).isBlockDevice() ? 'host_device' : 'file';
      return `json:${JSON.stringify({ driver: 'raw', offset, size, file: { driver, filename: path } })}`;
    };
    const zeros = isZeroed ? ['--target-is-zero'] : ['-S', '0'];
    const pace = limit === 0 ? [] : ['-r', String(limit)];
    const args = ['convert', '-n', ...zeros, ...pace, '-O', 'raw', await piece(from), await piece(to)];
    const signal = AbortSignal.any([this.#end.signal, tooLong]);
    await run('qemu-img', args, { doing, timeoutMs: PIECE_TIMEOUT_MS, signal });
  }
}
