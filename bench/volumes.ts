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
import { defaultClearing } from '#host/storage/lvm/clear.ts';
import { lvmStorage } from '#host/storage/lvm/driver.ts';
import { someDisk, tell } from '#test/support/disk-lab.ts';
import { type Comparison, inTurns, timed } from './comparison.ts';

const CIPHER = { cipher: 'aes-xts-plain64', keyBits: 512 };
const BYTES = 64 * MIB;
const ROUNDS = 5;
/** At least 80 % of what the cipher can do reaches the disk. */
const CIPHER_TARGET = 1 / 0.8;
type Progress = (line: string) => void;
type Direction = 'read' | 'write';

/** Opening and closing, and throughput through dm-crypt next to the bare volume and to the cipher by itself. */
export async function measureVolumes(volumeGroup: string, progress: Progress): Promise<Comparison[]> {
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
    if (encryption === null) return [disk, { attachment, header: { path: attachment.path, offset: 0, length: 0 } }];
    const medium = { attachment, header: await driver.headerRegion(disk) };
    await encryptorsWith({})[encryption === 'plain' ? 'plain' : 'luksv2'].format(disk, medium, key);
    return [disk, medium];
  };
  const [, bare] = await make(null, BYTES);
  const disks = { 4096: await make('luksv2', BYTES), 512: await make('luksv2', BYTES + 512) };
  comparisons.push(await openAndClose(disks[4096], await make('plain', BYTES), key, progress));
  const cipher = cipherTimes();
  // Written first: what was never written is read without the medium.
  for (const direction of ['write', 'read'] as const) {
    const ways: Record<string, () => Promise<number>> = { bare: () => move(direction, bare.attachment.path) };
    for (const sector of [4096, 512] as const) {
      for (const [flags, options] of Object.entries(FLAGS)) {
        const [disk, medium] = disks[sector];
        const { luksv2 } = encryptorsWith(options);
        ways[`${sector} ${flags}`] = () => throughput(luksv2, disk, medium, key, direction);
      }
    }
    const times = await inTurns(ROUNDS, ways, progress);
    for (const [way, own] of Object.entries(times)) {
      if (way === 'bare') continue;
      const ours = { what: `${direction} 64 MiB through dm-crypt, sectors of ${way}`, times: own };
      const other = { what: `${direction} them on the bare volume`, times: times.bare ?? [] };
      comparisons.push({ bench: 'lvm', ours, other, target: null });
      const beside = { what: `${direction === 'read' ? 'de' : 'en'}crypt them in memory (cryptsetup benchmark)` };
      const target = way === '4096 with its queues' ? CIPHER_TARGET : null;
      comparisons.push({ bench: 'lvm', ours, other: { ...beside, times: [cipher[direction]] }, target });
    }
  }
  progress(`processors: ${availableParallelism()}`);
  return comparisons;
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
  const times = await inTurns(ROUNDS, ways, progress);
  const ours = { what: 'open and close a LUKS2 disk', times: times.luks2 };
  return { bench: 'lvm', ours, other: { what: 'open and close a plain one', times: times.plain }, target: 3 };
}

async function throughput(
  encryptor: Encryptor,
  disk: DiskSpec,
  medium: Medium,
  key: Secret,
  direction: Direction,
): Promise<number> {
  const path = await encryptor.unlock(disk, medium, key);
  try {
    return await move(direction, path);
  } finally {
    await encryptor.lock(disk);
  }
}

/** Past the page cache, a MiB at a time. */
async function move(direction: Direction, path: string): Promise<number> {
  const ends = direction === 'read' ? [`if=${path}`, 'of=/dev/null', 'iflag=direct'] : ['if=/dev/zero', `of=${path}`];
  const flags = direction === 'read' ? [] : ['oflag=direct', 'conv=notrunc,fdatasync'];
  return await timed(async () => {
    const { status, text } = tell('dd', ...ends, ...flags, 'bs=1M', `count=${BYTES / MIB}`, 'status=none');
    if (status !== 0) throw new Error(`dd failed: ${text}`);
  });
}

/** Milliseconds that the kernel's cipher needs for as many bytes, in memory. */
function cipherTimes(): Record<Direction, number> {
  const { text } = tell('cryptsetup', 'benchmark', '--cipher', 'aes-xts', '--key-size', String(CIPHER.keyBits));
  const [, encrypt, decrypt] = /aes-xts\s+512b\s+([\d.]+) MiB\/s\s+([\d.]+) MiB\/s/.exec(text) ?? [];
  if (!encrypt || !decrypt) throw new Error(`cryptsetup benchmark printed something else: ${text}`);
  const ms = (speed: string) => (BYTES / MIB / Number(speed)) * 1000;
  return { write: ms(encrypt), read: ms(decrypt) };
}
