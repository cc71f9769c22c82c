import { readlinkSync, realpathSync } from 'node:fs';
import { basename, dirname, join, normalize } from 'node:path';
import { helperShapes, type Shape, type Shapes, serviceShapes } from '#host/privileged-shapes.ts';

/** What privileged commands may touch. */
export type Bounds = {
  /** Volume groups in which volumes of ours lie. */
  readonly volumeGroups: readonly string[];
  readonly thinPools: readonly string[];
  /** Folders below which files of ours lie. */
  readonly directories: readonly string[];
};

/** Who runs a command: the root helper where there is one, or always the service itself. */
export type Runner = 'helper' | 'service';

/** What a program is given besides its arguments. */
export type GivenInput = { readonly kind: 'none' } | { readonly kind: 'key' } | { readonly kind: 'text'; text: string };

type Item =
  | { readonly word: string }
  | { readonly hole: Hole }
  | { readonly some: readonly Item[]; readonly max: number };

const UUID = '[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}';
/** See `diskName`: a server's id, `_`, and what Nova calls its disk; what is called as Cinder does, and a generation. */
const VOLUME = new RegExp(
  `^(${UUID}_[a-z][a-z0-9_.]{0,40}|(volume-|_snapshot-|backup-|image-)${UUID}(\\.g\\d{1,9})?)$`,
);
const UUID_ALONE = new RegExp(`^${UUID}$`);
const MAPPING = new RegExp(`^nl-${UUID}-${UUID}$`);
const FIELDS = /^[a-z]+_[a-z_]+(,[a-z]+_[a-z_]+){0,9}$/;
const TAG = new RegExp(`^nightlatch:(disk:${UUID}|note:[A-Za-z0-9_+.:-]{1,200})$`);
/** A volume group or a volume whose name `a`, quoted by nobody, cannot mean more than itself. */
const NAME = /^[a-zA-Z0-9+_.][a-zA-Z0-9+_.-]*$/;

type Fits = (word: string, bounds: Bounds) => boolean;

/** Each kind of hole, by what fits it. None takes a word that begins with a dash or holds a line break. */
const holes = {
  mapping: (word) => MAPPING.test(word),
  probe: (word) => /^nl-probe-\d{1,10}(-crypt)?$/.test(word),
  volume: isVolume,
  'group-volume': (word, bounds) => bounds.volumeGroups.some((group) => isVolumeOf(group, word, `${group}/`)),
  'volume-name': (word) => VOLUME.test(word),
  group: (word, bounds) => NAME.test(word) && bounds.volumeGroups.includes(word),
  pool: (word, bounds) => NAME.test(word) && bounds.thinPools.includes(word),
  selection: (word, bounds) => word === 'lv_name=~"_"' || isSelected(word.replace(/^lv_name=/, ''), word, bounds),
  fields: (word) => FIELDS.test(word),
  tag: (word) => TAG.test(word),
  luks: (word) => word === 'luks1' || word === 'luks2',
  cipher: (word) => /^(?!null|cipher)[a-z0-9]+-[a-z0-9]+-[a-z0-9]+$/.test(word),
  hash: (word) => /^sha(1|256|384|512)$/.test(word),
  sector: (word) => word === '512' || word === '4096',
  uuid: (word) => UUID_ALONE.test(word),
  number: (word) => /^\d{1,15}$/.test(word),
  bytes: (word) => /^\d{1,17}b$/.test(word),
  label: (word) => /^[A-Za-z0-9][A-Za-z0-9_.-]{0,15}$/.test(word),
  'memory-options': (word) => /^mode=0700,nodev,nosuid,noexec(,noswap)?$/.test(word),
  file: isFile,
  plaintext: (word, bounds) => isMappedDevice(word) || isVolume(word, bounds) || isFile(word, bounds),
} as const satisfies Record<string, Fits>;

export type Hole = keyof typeof holes;
export const holeNames = Object.keys(holes) as Hole[];

/** Who may run a command within these bounds; null: nobody, it has none of the shapes. Pure but for looking at links. */
export function runnerOf(program: string, args: readonly string[], input: GivenInput, bounds: Bounds): Runner | null {
  const fits = (shapes: Shapes) => (shapes[program] ?? []).some((shape) => matches(shape, args, input, bounds));
  if (fits(helperShapes)) return 'helper';
  return fits(serviceShapes) ? 'service' : null;
}

/** Whether a program is one that runs by its shapes only. */
export function isPrivileged(program: string): boolean {
  return Object.hasOwn(helperShapes, program) || Object.hasOwn(serviceShapes, program);
}

/** The parts of a shape's line. */
export function parseShape(line: string): Item[] {
  const open: { items: Item[]; max: number }[] = [{ items: [], max: 1 }];
  for (const token of line.match(/[[\]{}]|<[^>]+>|[^\s[\]{}]+/g) ?? []) {
    const items = open.at(-1)?.items ?? [];
    if (token === '[' || token === '{') open.push({ items: [], max: token === '[' ? 1 : 4 });
    else if (token === ']' || token === '}') {
      const { items: some = [], max = 0 } = open.pop() ?? {};
      open.at(-1)?.items.push({ some, max });
    } else items.push(token.startsWith('<') ? { hole: asHole(token.slice(1, -1)) } : { word: token });
  }
  return open[0]?.items ?? [];
}

function asHole(name: string): Hole {
  if (!Object.hasOwn(holes, name)) throw new Error(`a shape has a hole of an unknown kind: ${name}`);
  return name as Hole;
}

function matches(shape: Shape, args: readonly string[], input: GivenInput, bounds: Bounds): boolean {
  const line = typeof shape === 'string' ? shape : shape.line;
  if (!takes(shape, line, input) || args.some((word) => /\p{Cc}/u.test(word))) return false;
  return ends(parseShape(line), args, bounds).has(args.length);
}

function takes(shape: Shape, line: string, input: GivenInput): boolean {
  if (typeof shape !== 'string' && shape.input !== 'key') return input.kind === 'text' && shape.input.test(input.text);
  const takesKey = typeof shape !== 'string' || line.includes('--key-file=-');
  return input.kind === (takesKey ? 'key' : 'none');
}

/** How many of the first words the items can stand for. */
function ends(items: readonly Item[], args: readonly string[], bounds: Bounds): Set<number> {
  let at = new Set([0]);
  for (const item of items) {
    const next = new Set<number>();
    for (const start of at) for (const length of lengths(item, args.slice(start), bounds)) next.add(start + length);
    at = next;
  }
  return at;
}

function lengths(item: Item, args: readonly string[], bounds: Bounds): Iterable<number> {
  if ('some' in item) {
    const once = item.some;
    return Array.from({ length: item.max + 1 }, (_, n) => ends(Array(n).fill(once).flat(), args, bounds)).flatMap(
      (set) => [...set],
    );
  }
  const [word] = args;
  if (word === undefined) return [];
  const fits = 'word' in item ? word === item.word : !word.startsWith('-') && holes[item.hole](word, bounds);
  return fits ? [1] : [];
}

function isFile(word: string, { directories }: Bounds): boolean {
  return directories.some((directory) => isWithin(word, directory));
}

function isMappedDevice(word: string): boolean {
  return word.startsWith('/dev/mapper/') && MAPPING.test(word.slice('/dev/mapper/'.length));
}

function isVolume(word: string, { volumeGroups }: Bounds): boolean {
  return volumeGroups.some((group) => isVolumeOf(group, word, `/dev/${group}/`));
}

function isVolumeOf(group: string, word: string, prefix: string): boolean {
  return NAME.test(group) && word.startsWith(prefix) && VOLUME.test(word.slice(prefix.length));
}

function isSelected(name: string, word: string, { thinPools }: Bounds): boolean {
  return word === `lv_name=${name}` && (VOLUME.test(name) || (NAME.test(name) && thinPools.includes(name)));
}

/** Whether a path lies in a folder or is it, also after every link on the way is followed; it must itself be no link. */
function isWithin(path: string, directory: string): boolean {
  if (!path.startsWith('/') || path !== normalize(path) || path.endsWith('/')) return false;
  if (isLink(path)) return false;
  const real = join(realOf(dirname(path)), basename(path));
  const base = realOf(directory);
  return real === base || real.startsWith(`${base}/`);
}

function isLink(path: string): boolean {
  try {
    readlinkSync(path);
    return true;
  } catch {
    // EINVAL: it is something else; ENOENT: it is nothing yet; ENOTCONN: it is the mount of a program that has ended.
    return false;
  }
}

/** The path without links, as far as it exists. */
function realOf(path: string): string {
  try {
    return realpathSync.native(path);
  } catch {
    return path === dirname(path) ? path : join(realOf(dirname(path)), basename(path));
  }
}
