import { setTimeout as sleep } from 'node:timers/promises';
import type { VolumeId } from '#core/ids.ts';

/** `look`: somebody looks whether a guest has it. `work`: none has, and none may start with it. `start`: one is starting. */
type Holder = 'look' | 'work' | 'start';

const LOOK_AGAIN_MS = 100;

/**
 * Who has a volume in hand that no guest has open: what reads or changes its locked disk, or a guest that is being started
 * with it. One at a time, so that neither opens, locks or closes the lease of what the other uses.
 *
 * It is kept in memory, for one process works on all operations. After a crash nobody holds anything, and every step that
 * did takes it again when it is repeated. Nobody waits for a hold while having one, but for several taken together in one
 * order, so that no two wait for each other.
 */
export class VolumeHolds {
  readonly #held = new Map<VolumeId, Holder>();
  /** Whose guest is being ended, so many times. */
  readonly #ending = new Map<VolumeId, number>();

  /**
   * Holds a volume for `work` if `isOpen` says that no guest has it; else calls `work` with what `isOpen` found, and holds
   * nothing: the guest has it.
   */
  async unlessOpen<Guest, T>(
    id: VolumeId,
    isOpen: () => Promise<Guest | null>,
    work: (guest: Guest | null) => Promise<T>,
  ): Promise<T> {
    await this.#take(id, 'look');
    let guest: Guest | null;
    try {
      guest = await isOpen();
      if (guest === null) {
        this.#held.set(id, 'work');
        return await work(null);
      }
    } finally {
      this.#held.delete(id);
    }
    return await work(guest);
  }

  /** Holds volumes for a guest that starts with them. `whileWaiting` is called again and again; what it throws ends the wait. */
  async forStart(ids: readonly VolumeId[], whileWaiting: () => Promise<void>): Promise<Disposable> {
    const taken: VolumeId[] = [];
    const release = () => {
      for (const id of taken) this.#held.delete(id);
    };
    try {
      for (const id of ids.toSorted()) {
        await this.#take(id, 'start', whileWaiting);
        taken.push(id);
      }
    } catch (error) {
      release();
      throw error;
    }
    return { [Symbol.dispose]: release };
  }

  /** Those of a guest's volumes that may be locked when it has ended: who works on one locks it. Nobody begins to until then. */
  async forEnd(ids: readonly VolumeId[]): Promise<Disposable & { readonly lockable: ReadonlySet<VolumeId> }> {
    while (ids.some((id) => this.#held.get(id) === 'look')) await sleep(LOOK_AGAIN_MS);
    const lockable = new Set(ids.filter((id) => this.#held.get(id) !== 'work'));
    for (const id of lockable) this.#ending.set(id, (this.#ending.get(id) ?? 0) + 1);
    const release = () => {
      for (const id of lockable) {
        const left = (this.#ending.get(id) ?? 1) - 1;
        if (left === 0) this.#ending.delete(id);
        else this.#ending.set(id, left);
      }
    };
    return { lockable, [Symbol.dispose]: release };
  }

  async #take(id: VolumeId, holder: Holder, whileWaiting: () => Promise<void> = async () => {}): Promise<void> {
    // Who takes a volume over from a start ends its guest while that has it.
    const isFree = () => !this.#held.has(id) && (holder === 'start' || !this.#ending.has(id));
    while (!isFree()) {
      await whileWaiting();
      if (!isFree()) await sleep(LOOK_AGAIN_MS);
    }
    this.#held.set(id, holder);
  }
}
