import { NightlatchError } from '#core/errors.ts';
import type { HostPath } from '#core/ids.ts';
import { type Program, run } from '#host/exec.ts';

/** One logical volume, as `lvs` tells of it. */
export type Volume = { readonly name: string; readonly tags: readonly string[]; readonly sizeBytes: number };

const TIMEOUT_MS = 60_000;
const SEPARATOR = '|';
/**
 * LVM looks for its own on every block device. On an open mapping lies what its guest wrote there, which may call itself
 * a volume group of this host; and whoever reads a mapping whose key is wiped waits until it is back.
 */
const NO_MAPPINGS = ['--config', 'devices/filter="r|^/dev/mapper/nl-|"'];

/** The logical volumes of one volume group, by LVM's own programs. Every verb *throws* program-missing, program-failed. */
export class Volumes {
  readonly #group: string;

  constructor(group: string) {
    this.#group = group;
  }

  pathOf(name: string): HostPath {
    return `/dev/${this.#group}/${name}` as HostPath;
  }

  /** Null: there is none of that name. */
  async find(name: string, doing: string): Promise<Volume | null> {
    return (await this.list(`lv_name=${name}`, doing))[0] ?? null;
  }

  /** Those that LVM's selection `select` names. */
  async list(select: string, doing: string): Promise<Volume[]> {
    const fields = ['-o', 'lv_name,lv_size,lv_tags', '--select', select];
    return parseVolumes(await this.#report('lvs', fields, doing));
  }

  /** The size of the whole group, in bytes. */
  async groupSize(doing: string): Promise<number> {
    return Number((await this.#report('vgs', ['-o', 'vg_size'], doing)).trim());
  }

  /** What is left of the group, in bytes. */
  async groupRoom(doing: string): Promise<{ readonly freeBytes: number }> {
    return { freeBytes: Number((await this.#report('vgs', ['-o', 'vg_free'], doing)).trim()) };
  }

  /**
   * Makes a volume of at least `sizeBytes`, with its tags from the first moment; signatures of what lay there earlier are
   * wiped. `pool`: the thin pool it takes its room from, or null. *Throws* disk-full.
   */
  async create(name: string, sizeBytes: number, pool: string | null, tags: readonly string[], doing: string) {
    // A thin volume reads as zeros until it is written: there is nothing to wipe, and LVM refuses to be asked.
    const size = pool === null ? ['-Wy', '-Zy', '-L', `${sizeBytes}b`] : ['-V', `${sizeBytes}b`, '--thinpool', pool];
    const named = [...tags.flatMap((tag) => ['--addtag', tag]), '-n', name];
    await this.#tellingFull(doing, () => lvm('lvcreate', ['-y', ...size, ...named, this.#group], doing));
  }

  async remove(name: string, doing: string): Promise<void> {
    await lvm('lvremove', ['-f', '-y', `${this.#group}/${name}`], doing);
  }

  /** *Throws* disk-full. */
  async extend(name: string, sizeBytes: number, doing: string): Promise<void> {
    await this.#tellingFull(doing, () =>
      lvm('lvextend', ['-y', '-L', `${sizeBytes}b`, `${this.#group}/${name}`], doing),
    );
  }

  async #report(program: 'lvs' | 'vgs', args: readonly string[], doing: string): Promise<string> {
    const shape = ['--noheadings', '--units', 'b', '--nosuffix', '--separator', SEPARATOR];
    return (await lvm(program, [...shape, ...args, this.#group], doing)).stdout;
  }

  /** LVM ends with 5 for every failure; its words tell which. */
  async #tellingFull(doing: string, work: () => Promise<unknown>): Promise<void> {
    try {
      await work();
    } catch (error) {
      const isFull = error instanceof NightlatchError && /[Ii]nsufficient free (space|extents)/.test(error.message);
      if (!isFull) throw error;
      throw new NightlatchError('disk-full', { doing, where: `volume group ${this.#group}` }, { cause: error });
    }
  }
}

/** Reads what `lvs` prints of the fields lv_name, lv_size and lv_tags; a line of another shape is an error. */
export function parseVolumes(text: string): Volume[] {
  const lines = text.split('\n').filter((line) => line.trim() !== '');
  return lines.map((line) => {
    const [name, size, tags, ...more] = line.trim().split(SEPARATOR);
    if (!name || !size || !/^\d+$/.test(size) || tags === undefined || more.length > 0) {
      throw new Error(`lvs printed a line of an unknown shape: ${line}`);
    }
    return { name, sizeBytes: Number(size), tags: tags === '' ? [] : tags.split(',') };
  });
}

function lvm(program: Extract<Program, `lv${string}` | 'vgs'>, args: readonly string[], doing: string) {
  return run(program, [...NO_MAPPINGS, ...args], { doing, timeoutMs: TIMEOUT_MS });
}
