import { availableParallelism } from 'node:os';
import type { DiskSpec } from '#core/disk.ts';
import type { HostPath } from '#core/ids.ts';
import { Secret } from '#core/secret.ts';
import { MIB } from '#core/sizes.ts';
import { luks2Encryptor } from '#host/encryption/dm-crypt/luks2.ts';
import { Mappings } from '#host/encryption/dm-crypt/mappings.ts';
import type { MappingOptions } from '#host/encryption/dm-crypt/opening.ts';
import { plainEncryptor, plainNote } from '#host/encryption/dm-crypt/plain.ts';
import type { Encryptor, Medium } from '#host/encryption/encryptor.ts';
import { grantPrivilege } from '#host/grant.ts';
import { pathOf } from '#host/storage/attachment.ts';
import { headerInFile } from '#host/storage/header-file.ts';
import { defaultClearing } from '#host/storage/lvm/clear.ts';
import { lvmStorage } from '#host/storage/lvm/driver.ts';
import { someDisk, tell } from '#test/support/disk-lab.ts';
import { type Comparison, inTurns, timed } from './comparison.ts';

const CIPHER = { cipher: 'aes-xts-plain64', keyBits: 512 };
/** Little at a time and many turns: what else the machine does falls on all alike. */
const BYTES = 32 * MIB;
const ROUNDS = 11;
const OPEN_ROUNDS = 5;
/**
 * What the throughput is held to: where the cipher is slower than the disk, at least 80 % of what it can do reaches the
 * disk; elsewhere at least 95 % of what the bare volume can do.
 */
const AIMS = { cipher: 1 / 0.8, 'bare volume': 1 / 0.95 } as const;
export type Aim = keyof typeof AIMS;
const SECTORS = [4096, 512] as const;
type Sector = (typeof SECTORS)[number];
/** How disks are opened unless the configuration says otherwise. */
const DEFAULT_WAY = '4096 with its queues';
type Progress = (line: string) => void;
type Direction = 'read' | 'write';

/** Opening and closing, and throughput through dm-crypt next to the bare volume and to the cipher by itself. */
export async function measureVolumes(volumeGroup: string, aim: Aim, progress: Progress): Promise<Comparison[]> {
  grantPrivilege({ volumeGroups: [volumeGroup] });
  const driver = lvmStorage({
    volumeGroup,
    thinPool: null,
    noteOf: (disk) => (disk.encryption === 'plain' ? plainNote(disk, CIPHER) : null),
    clearing: { ...defaultClearing, way: 'none' },
  });
  const comparisons: Comparison[] = [];
  await using undo = new AsyncDisposableStack();
  using key = Secret.generate();
  const make = async (encryption: DiskSpec['encryption'], sizeBytes: number): Promise<[DiskSpec, Medium]> => {
    const disk = someDisk({ storage: 'lvm', encryption, sizeBytes });
    undo.defer(() => driver.delete(disk));
    await driver.create(disk, null);
    const attachment = driver.attachment(disk);
    if (encryption === null)
      return [disk, { attachment, header: headerInFile({ path: attachment.path, offset: 0, length: 0 }) }];
    const medium = { attachment, header: await driver.headerRegion(disk) };
    await encryptorsWith({})[encryption === 'plain' ? 'plain' : 'luksv2'].format(disk, medium, key);
    return [disk, medium];
  };
  const [, bare] = await make(null, BYTES);
  comparisons.push(await openAndClose(await make('luksv2', BYTES), await make('plain', BYTES), key, progress));
  const paths: Record<string, HostPath> = {};
  for (const sector of SECTORS) {
    for (const [name, flags] of Object.entries(FLAGS)) {
      const { luksv2 } = encryptorsWith(flags);
      // A size that is no multiple of 4096 makes its sectors small.
      const [disk, medium] = await make('luksv2', BYTES + (sector === 4096 ? 0 : 512));
      const path = await luksv2.unlock(disk, medium, key);
      undo.defer(() => luksv2.lock(disk));
      expectMapping(path, { sector, flags });
      paths[`${sector} ${name}`] = path;
    }
  }
  // Written first: what was never written is read without the medium.
  for (const direction of ['write', 'read'] as const) {
    comparisons.push(...(await measureThroughput(direction, { bare: pathOf(bare.attachment), paths, aim }, progress)));
  }
  progress(`processors: ${availableParallelism()}`);
  return comparisons;
}

/** `paths`: open mappings by the way they were opened. */
type Subject = { readonly bare: HostPath; readonly paths: Readonly<Record<string, HostPath>>; readonly aim: Aim };

/** Each way next to the bare volume and to the cipher, all of them in turns. */
async function measureThroughput(
  direction: Direction,
  { bare, paths, aim }: Subject,
  progress: Progress,
): Promise<Comparison[]> {
  const ways: Record<string, () => Promise<number>> = { bare: async () => move(direction, bare) };
  for (const [way, path] of Object.entries(paths)) ways[way] = async () => move(direction, path);
  ways.cipher = async () => cipherTime(direction);
  const times = await inTurns(ROUNDS, ways, progress);
  const { bare: onBare = [], cipher: inMemory = [] } = times;
  const bareVolume = { what: `${direction} them on the bare volume`, times: onBare };
  const what = `${direction === 'read' ? 'de' : 'en'}crypt them in memory (cryptsetup benchmark)`;
  return Object.keys(paths).flatMap((way) => {
    const moved = `${direction} ${BYTES / MIB} MiB through dm-crypt, sectors of ${way}`;
    const ours = { what: moved, times: times[way] ?? [] };
    const target = (wanted: Aim) => (way === DEFAULT_WAY && aim === wanted ? AIMS[aim] : null);
    return [
      { bench: 'lvm', ours, other: bareVolume, target: target('bare volume') },
      { bench: 'lvm', ours, other: { what, times: inMemory }, target: target('cipher') },
    ];
  });
}

const FLAGS: Readonly<Record<string, Partial<MappingOptions>>> = {
  'with its queues': {},
  'without queues': { noReadWorkqueue: true, noWriteWorkqueue: true },
};

function encryptorsWith(options: Partial<MappingOptions>): Record<'plain' | 'luksv2', Encryptor> {
  const all = { noReadWorkqueue: false, noWriteWorkqueue: false, ...options };
  const mappings = new Mappings();
  return { plain: plainEncryptor(mappings, all), luksv2: luks2Encryptor(mappings, all, '/dev/shm' as HostPath) };
}

async function openAndClose(
  luks2: readonly [DiskSpec, Medium],
  plain: readonly [DiskSpec, Medium],
  key: Secret,
  progress: Progress,
): Promise<Comparison> {
  const encryptors = encryptorsWith({});
  const around = (format: 'plain' | 'luksv2', [disk, medium]: readonly [DiskSpec, Medium]) =>
    timed(async () => {
      await encryptors[format].unlock(disk, medium, key);
      await encryptors[format].lock(disk);
    });
  const ways = { luks2: () => around('luksv2', luks2), plain: () => around('plain', plain) };
  const times = await inTurns(OPEN_ROUNDS, ways, progress);
  const ours = { what: 'open and close a LUKS2 disk', times: times.luks2 };
  return { bench: 'lvm', ours, other: { what: 'open and close a plain one', times: times.plain }, target: 3 };
}

type Expected = { readonly sector: Sector; readonly flags: Partial<MappingOptions> };

/** What is measured is what is said to be. See the kernel's dm-crypt documentation for the table. */
function expectMapping(path: string, { sector, flags }: Expected): void {
  const { text } = tell('dmsetup', 'table', path);
  const shown = {
    sector: Number(/sector_size:(\d+)/.exec(text)?.[1] ?? 512),
    read: text.includes('no_read_workqueue'),
    write: text.includes('no_write_workqueue'),
  };
  const wanted = { sector, read: flags.noReadWorkqueue === true, write: flags.noWriteWorkqueue === true };
  if (JSON.stringify(shown) !== JSON.stringify(wanted)) throw new Error(`the mapping is another: ${text}`);
}

/** Past the page cache, a MiB at a time; what `dd` itself took for it, its start not among it. */
function move(direction: Direction, path: string): number {
  const ends = direction === 'read' ? [`if=${path}`, 'of=/dev/null', 'iflag=direct'] : ['if=/dev/zero', `of=${path}`];
  const flags = direction === 'read' ? [] : ['oflag=direct', 'conv=notrunc,fdatasync'];
  const { status, text } = tell('env', 'LC_ALL=C', 'dd', ...ends, ...flags, 'bs=1M', `count=${BYTES / MIB}`);
  const [, bytes, seconds] = /^(\d+) bytes .*copied, ([\d.e-]+) s,/m.exec(text) ?? [];
  if (status !== 0 || Number(bytes) !== BYTES || seconds === undefined) throw new Error(`dd failed: ${text}`);
  return Number(seconds) * 1000;
}

/** Milliseconds that the kernel's cipher needs for as many bytes, in memory. */
function cipherTime(direction: Direction): number {
  const { text } = tell('cryptsetup', 'benchmark', '--cipher', 'aes-xts', '--key-size', String(CIPHER.keyBits));
  const [, encrypt, decrypt] = /aes-xts\s+512b\s+([\d.]+) MiB\/s\s+([\d.]+) MiB\/s/.exec(text) ?? [];
  if (!encrypt || !decrypt) throw new Error(`cryptsetup benchmark printed something else: ${text}`);
  return (BYTES / MIB / Number(direction === 'write' ? encrypt : decrypt)) * 1000;
}
