import type { Readable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { NightlatchError } from '#core/errors.ts';
import type { HostPath } from '#core/ids.ts';
import { type Outcome, run } from '#host/exec.ts';
import { readFrom, writeTo } from '#host/exec-stream.ts';
import { diffEnd, diffRecord, diffStart } from '#host/storage/rbd/diff.ts';
import type { RbdImage } from '#host/storage/storage-driver.ts';
import { writtenRuns } from '#host/storage/written-runs.ts';

/** A pool of a Ceph cluster, and who asks. */
export type Pool = {
  readonly name: string;
  /** ceph.conf(5): where the cluster is, and in which keyring our key. */
  readonly conf: HostPath;
  /** Without `client.`. */
  readonly user: string;
  /** See `RbdImage`. */
  readonly secretUuid?: string;
};

/** What `rbd info` tells of an image. */
export type Image = {
  readonly sizeBytes: number;
  /** What it was cloned from and still shares data with. `isTrash`: that is deleted but for what its clones share. */
  readonly parent: { readonly pool: string; readonly id: string; readonly isTrash: boolean } | null;
};

type ImageInPool = { readonly pool: string; readonly id: string };

/** What `ceph df` tells. */
type ClusterUse = {
  readonly stats: { readonly total_bytes: number };
  readonly pools: readonly {
    readonly name: string;
    readonly stats: { readonly max_avail: number; readonly bytes_used: number };
  }[];
};

/** 4 PiB. */
const UNKNOWN_BYTES = 2 ** 52;
/** Whatever only looks. */
const LOOK_TIMEOUT_MS = 30_000;
const TIMEOUT_MS = 60_000;
/** Whatever takes as long as an image is large. */
const LONG_TIMEOUT_MS = 24 * 60 * 60_000;
/** Ceph's default of osd_client_watch_timeout, and half of it again. */
const DEAD_CLIENT_MS = 45_000;
const LOOK_EVERY_MS = 1000;
// rbd(8) ends with the number of a system error.
const ENOENT = 2;
const EBUSY = 16;
const EEXIST = 17;
const ENOTEMPTY = 39;

/** The images of one pool, by `rbd`. Every verb *throws* cluster-silent, program-missing, program-failed. */
export class Images {
  readonly #pool: Pool;

  constructor(pool: Pool) {
    this.#pool = pool;
  }

  /** Those of the pool in which an image lies. */
  static around({ pool: name, conf, user }: RbdImage): Images {
    return new Images({ name, conf, user });
  }

  /** Null: there is none of that name. */
  async find(name: string, doing: string): Promise<Image | null> {
    const { code, stdout } = await this.#look(['info', '--format', 'json', this.#spec(name)], doing);
    return code === ENOENT ? null : parseImage(stdout);
  }

  /** Bytes that its disks can have together. A cluster without a manager daemon tells no sizes: then it is any number. */
  async capacityBytes(doing: string): Promise<number> {
    const { name, conf } = this.#pool;
    const args = ['df', '--format', 'json'];
    const ceph = () => run('ceph', [...this.#access(), ...args], { doing, timeoutMs: LOOK_TIMEOUT_MS });
    const { stdout } = await tellingSilence(conf, ceph);
    const { stats, pools } = JSON.parse(stdout) as ClusterUse;
    if (stats.total_bytes === 0) return UNKNOWN_BYTES;
    const pool = pools.find((each) => each.name === name);
    if (!pool) throw new NightlatchError('bad-request', { reason: `${doing} failed: there is none of that name.` });
    return pool.stats.max_avail + pool.stats.bytes_used;
  }

  async list(doing: string): Promise<string[]> {
    const { stdout } = await this.#rbd(['ls', '--format', 'json', this.#pool.name], doing, [], LOOK_TIMEOUT_MS);
    return JSON.parse(stdout) as string[];
  }

  /** All of it reads as zeros. *Repeat*: one that is there is left as it is. */
  async create(name: string, sizeBytes: number, doing: string): Promise<void> {
    await this.#rbd(['create', '--size', `${sizeBytes}B`, this.#spec(name)], doing, [EEXIST]);
  }

  /**
   * Makes an image that holds what another one of the same cluster does at this instant, in constant time. Neither sees what is
   * written to the other; the other one may be removed before it.
   * *Crash*: leaves at most a snapshot `clone`, which a repeat uses no more than once.
   */
  async clone(from: Pick<RbdImage, 'pool' | 'image'>, clone: string, doing: string): Promise<void> {
    const snapshot = `${from.pool}/${from.image}@${clone}`;
    // One that a crash left is of another instant.
    await this.#removeSnapshot(snapshot, doing);
    await this.#rbd(['snap', 'create', '--no-progress', snapshot], doing);
    // Format 2: what clones share outlives its snapshot, without anyone protecting it.
    await this.#rbd(['clone', '--rbd-default-clone-format', '2', snapshot, this.#spec(clone)], doing);
    await this.#removeSnapshot(snapshot, doing);
  }

  /** Of how many images, one below the other, an image shares the data. */
  async depth(name: string, doing: string): Promise<number> {
    let depth = 0;
    for (let at = (await this.find(name, doing))?.parent; at; depth++) {
      at = (await this.#infoById(at, doing))?.parent;
    }
    return depth;
  }

  /** Gives an image data of its own, as long as that takes; what it shared is removed if nobody else shares it. *Repeat*: fine. */
  async flatten(name: string, doing: string): Promise<void> {
    const image = await this.find(name, doing);
    if (!image?.parent) return;
    await this.#rbd(['flatten', '--no-progress', this.#spec(name)], doing, [], LONG_TIMEOUT_MS);
    if (image.parent.isTrash) await this.#emptyTrash(image.parent, doing);
  }

  /** The bytes of an image; it is not written meanwhile. */
  export(name: string, doing: string): Readable {
    return readFrom('rbd', [...this.#access(), 'export', '--no-progress', this.#spec(name), '-'], doing);
  }

  /** Writes bytes from the start of an image that reads as zeros, durably. */
  async import(name: string, bytes: AsyncIterable<Buffer>, doing: string): Promise<void> {
    const args = [...this.#access(), 'import-diff', '--no-progress', '-', this.#spec(name)];
    await writeTo('rbd', args, diffOf(bytes), doing);
  }

  /** Makes an image of a raw file, with its holes. *Crash*: leaves one that is not whole. */
  async importFile(path: HostPath, name: string, doing: string): Promise<void> {
    const args = ['import', '--no-progress', path, this.#spec(name)];
    await this.#rbd(args, doing, [], LONG_TIMEOUT_MS);
  }

  /** Fine when `from` is gone, or `to` is there: then `from` stays. */
  async rename(from: string, to: string, doing: string): Promise<void> {
    await this.#rbd(['mv', this.#spec(from), this.#spec(to)], doing, [ENOENT, EEXIST]);
  }

  async resize(name: string, sizeBytes: number, doing: string): Promise<void> {
    await this.#rbd(['resize', '--no-progress', '--size', `${sizeBytes}B`, this.#spec(name)], doing);
  }

  /**
   * Removes an image; one whose data clones share goes to the trash until the last of them is removed. *Repeat*: fine.
   * *Throws* disk-in-use while somebody has it open.
   */
  async remove(name: string, doing: string): Promise<void> {
    const image = await this.find(name, doing);
    if (image === null) return;
    const spec = this.#spec(name);
    // Such as one that a clone left that was cut short; what clones share stays.
    await this.#rbd(['snap', 'purge', '--no-progress', spec], doing, [ENOENT]);
    const { code, stderr } = await this.#removeUnwatched(spec, doing);
    if (code === EBUSY) throw new NightlatchError('disk-in-use', { doing, disk: name, reason: lastLine(stderr) });
    if (code === ENOTEMPTY) await this.#rbd(['trash', 'mv', spec], doing, [ENOENT]);
    else if (image.parent?.isTrash) await this.#emptyTrash(image.parent, doing);
  }

  /** The cluster takes a client that was killed for one that has the image open, until it has not been heard of for a while. */
  async #removeUnwatched(spec: string, doing: string): Promise<Outcome> {
    const deadline = Date.now() + DEAD_CLIENT_MS;
    for (;;) {
      const args = ['rm', '--no-progress', spec];
      const outcome = await this.#rbd(args, doing, [ENOENT, EBUSY, ENOTEMPTY], LONG_TIMEOUT_MS);
      if (outcome.code !== EBUSY || Date.now() > deadline) return outcome;
      await sleep(LOOK_EVERY_MS);
    }
  }

  /** Removes what is in the trash, unless other clones share it still; and what it was itself a clone of. */
  async #emptyTrash(trashed: ImageInPool, doing: string): Promise<void> {
    const image = await this.#infoById(trashed, doing);
    if (image === null) return;
    const args = ['trash', 'rm', '--no-progress', `${trashed.pool}/${trashed.id}`];
    const { code } = await this.#rbd(args, doing, [ENOENT, EBUSY, ENOTEMPTY], LONG_TIMEOUT_MS);
    const isShared = code === ENOTEMPTY || code === EBUSY;
    if (!isShared && image.parent?.isTrash) await this.#emptyTrash(image.parent, doing);
  }

  async #infoById({ pool, id }: ImageInPool, doing: string): Promise<Image | null> {
    const args = ['info', '--format', 'json', '--pool', pool, '--image-id', id];
    const { code, stdout } = await this.#look(args, doing);
    return code === ENOENT ? null : parseImage(stdout);
  }

  async #removeSnapshot(snapshot: string, doing: string): Promise<void> {
    await this.#rbd(['snap', 'rm', '--no-progress', snapshot], doing, [ENOENT]);
  }

  /** Writes what an `rbd export-diff` would have written to a file. */
  async applyDiff(name: string, file: string, doing: string): Promise<void> {
    await this.#rbd(['import-diff', '--no-progress', file, this.#spec(name)], doing);
  }

  #spec(name: string): string {
    return `${this.#pool.name}/${name}`;
  }

  /** Of what is not there nothing is told, with ENOENT. */
  #look(args: readonly string[], doing: string): Promise<Outcome> {
    return this.#rbd(args, doing, [ENOENT], LOOK_TIMEOUT_MS);
  }

  #rbd(args: readonly string[], doing: string, tolerate: readonly number[] = [], timeoutMs = TIMEOUT_MS) {
    const { conf } = this.#pool;
    return tellingSilence(conf, () => run('rbd', [...this.#access(), ...args], { doing, tolerate, timeoutMs }));
  }

  #access(): string[] {
    const { conf, user } = this.#pool;
    return ['--conf', conf, '--id', user];
  }
}

/** As `rbd export-diff` would have written it. */
async function* diffOf(bytes: AsyncIterable<Buffer>): AsyncIterable<Buffer> {
  yield diffStart;
  let at = 0;
  for await (const piece of bytes) {
    for (const run of writtenRuns(piece)) yield* diffRecord({ at: at + run.at, bytes: run.bytes });
    at += piece.length;
  }
  yield diffEnd;
}

/** A program that asks a cluster waits until that answers. *Throws* cluster-silent. */
export async function tellingSilence<T>(conf: HostPath, ask: () => Promise<T>): Promise<T> {
  try {
    return await ask();
  } catch (error) {
    if (!(error instanceof NightlatchError) || error.code !== 'program-late') throw error;
    throw new NightlatchError('cluster-silent', { ...error.details, conf }, { cause: error });
  }
}

function parseImage(json: string): Image {
  const { size, parent } = JSON.parse(json) as {
    readonly size: number;
    readonly parent?: { readonly pool: string; readonly id: string; readonly trash: boolean };
  };
  return { sizeBytes: size, parent: parent ? { pool: parent.pool, id: parent.id, isTrash: parent.trash } : null };
}

function lastLine(text: string): string {
  return text.trim().split('\n').at(-1) ?? '';
}
