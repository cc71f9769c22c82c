import assert from 'node:assert/strict';
import { waitUntil } from '#test/support/wait.ts';

/** A guest that can be told what to do. */
export type Shell = { run(command: string): Promise<string> };

const BYTES = '32k';
const DEVICE_TIMEOUT_MS = 30_000;
const HIGHEST = 'tr -c 0-9 "\\n" | sort -n | tail -n 1';

/** A guest that writes to a volume all the time, and keeps in its memory what it wrote. */
export class GuestWriter {
  readonly #guest: Shell;
  readonly #volumeId: string;
  #rest = '';

  constructor(guest: Shell, volumeId: string) {
    this.#guest = guest;
    this.#volumeId = volumeId;
  }

  /**
   * Numbers into the first blocks, without an end; after them so many KiB of noise, which stay. `word`: the guest tells its
   * console each number once it is flushed, after this word.
   */
  async start(noiseKib = 16 * 1024, word: string | null = null): Promise<void> {
    const device = await this.device();
    const zeros = (file: string) => `dd if=/dev/zero of=${file} bs=${BYTES} count=1`;
    const noise = `dd if=/dev/urandom of=${device} bs=${BYTES} seek=1 count=${noiseKib / 32} conv=fsync`;
    await this.#guest.run(`(${zeros('/tmp/wrote')}; ${zeros(device)}; ${noise}) 2>/dev/null`);
    this.#rest = await this.#restNow(noiseKib);
    const block = 'printf "%512d" $n | dd bs=512 seek=$((n % 64))';
    const both = `${block} of=/tmp/wrote conv=notrunc; ${block} of=${device} conv=notrunc,fsync`;
    const tell = word === null ? 'true' : `echo "${word} $n" >/dev/ttyS0`;
    const loop = `n=0; while [ -e /tmp/go ]; do n=$((n + 1)); ${both}; ${tell}; done; touch /tmp/ended`;
    await this.#guest.run(`rm -f /tmp/ended; touch /tmp/go; (${loop}) >/dev/null 2>&1 &`);
  }

  /** The highest number written. */
  async count(): Promise<number> {
    return Number(await this.#guest.run(`cat /tmp/wrote | ${HIGHEST}`));
  }

  /** The highest number that the volume has, also for a guest that was booted since. */
  async countOnVolume(): Promise<number> {
    const read = `head -c ${BYTES} ${await this.device()}`;
    return Number(await this.#guest.run(`${read} | ${HIGHEST}`));
  }

  /** On return nothing is written any more, and the volume was read and holds all that was. */
  async stop(noiseKib = 16 * 1024): Promise<void> {
    await this.#guest.run(
      'rm /tmp/go; while [ ! -e /tmp/ended ]; do sleep 0.1; done; echo 3 >/proc/sys/vm/drop_caches',
    );
    const same = await this.#guest.run(`head -c ${BYTES} ${await this.device()} | cmp -s - /tmp/wrote && echo same`);
    assert.equal(same, 'same', 'the volume does not hold what was written last');
    await this.expectRest(noiseKib);
  }

  /** What was written at the beginning is there, also to a guest that was booted since. */
  async expectRest(noiseKib = 16 * 1024): Promise<void> {
    assert.equal(await this.#restNow(noiseKib), this.#rest, 'the volume does not hold what was written first');
  }

  /** The guest's name of the volume, which it finds by the volume's id. */
  async device(): Promise<string> {
    const find = `grep -l ${this.#volumeId.slice(0, 20)} /sys/block/vd*/serial | cut -d/ -f4`;
    let name = '';
    // One that was plugged in this moment shows a moment later.
    const isThere = async () => {
      name = await this.#guest.run(find);
      return /^vd[a-z]$/.test(name);
    };
    await waitUntil(`the guest has volume ${this.#volumeId}`, isThere, DEVICE_TIMEOUT_MS);
    return `/dev/${name}`;
  }

  async #restNow(noiseKib: number): Promise<string> {
    const read = `dd if=${await this.device()} bs=${BYTES} skip=1 count=${noiseKib / 32} 2>/dev/null`;
    return await this.#guest.run(`echo 3 >/proc/sys/vm/drop_caches; ${read} | md5sum | cut -d' ' -f1`);
  }
}
