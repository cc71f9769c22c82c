import { open, readFile } from 'node:fs/promises';
import { NightlatchError } from '#core/errors.ts';
import { run } from '#host/exec.ts';

const MIB = 1024 * 1024;
const SECTOR = 512;
const DOING = 'Building the guest image';

/** An MBR disk: a FAT partition that the boot loader and the kernel lie on, then an ext4 partition. */
const layout = { bootAtMib: 1, bootMib: 20, rootAtMib: 21, rootMib: 27, diskMib: 48 } as const;

const BOOT_CODE = '/usr/lib/syslinux/mbr/mbr.bin';
/** The code before the disk signature and the partition table in a disk's first sector. */
const CODE_LIMIT = 440;

export type DiskParts = {
  /** Files for the FAT partition; the boot loader reads its own configuration, `syslinux.cfg`, from among them. */
  readonly bootFiles: readonly string[];
  /** The folder that becomes the root file system. */
  readonly rootFolder: string;
};

/** Writes a bootable disk to the new file `path`. Mounts nothing and needs no loop device. */
export async function writeDisk(path: string, parts: DiskParts): Promise<void> {
  await writePartitions(path);
  await writeBootPartition(path, parts.bootFiles);
  await writeRootPartition(path, parts.rootFolder);
}

async function writePartitions(path: string): Promise<void> {
  await using disk = await open(path, 'wx');
  await disk.truncate(layout.diskMib * MIB);
  const table = [
    'label: dos',
    `start=${layout.bootAtMib}MiB, size=${layout.bootMib}MiB, type=e, bootable`,
    `start=${layout.rootAtMib}MiB, size=${layout.rootMib}MiB, type=83`,
  ];
  await run('sfdisk', ['--quiet', path], { doing: DOING, input: `${table.join('\n')}\n` });
  const code = await readBootCode();
  await disk.write(code, 0, Math.min(code.length, CODE_LIMIT), 0);
}

async function readBootCode(): Promise<Buffer> {
  return readFile(BOOT_CODE).catch(() => {
    throw new NightlatchError('program-missing', { doing: DOING, program: BOOT_CODE, package: 'syslinux-common' });
  });
}

async function writeBootPartition(path: string, files: readonly string[]): Promise<void> {
  const image = `${path}@@${layout.bootAtMib}M`;
  const sectors = (layout.bootMib * MIB) / SECTOR;
  // The boot sector names its own place on the disk (hidden sectors) and the BIOS geometry of 255 heads, 63 sectors.
  const geometry = ['-h', '255', '-s', '63', '-H', String((layout.bootAtMib * MIB) / SECTOR)];
  await run('mformat', ['-i', image, '-T', String(sectors), ...geometry, '-v', 'BOOT'], { doing: DOING });
  await run('mcopy', ['-i', image, ...files, '::/'], { doing: DOING });
  await run('syslinux', ['--install', '--offset', String(layout.bootAtMib * MIB), path], { doing: DOING });
}

async function writeRootPartition(path: string, folder: string): Promise<void> {
  const extended = `offset=${layout.rootAtMib * MIB},root_owner=0:0,lazy_itable_init=0,lazy_journal_init=0`;
  const shape = ['-t', 'ext4', '-b', '4096', '-J', 'size=4', '-m', '0', '-L', 'nightlatch-root'];
  await run('mke2fs', ['-q', '-F', ...shape, '-E', extended, '-d', folder, path, `${layout.rootMib}M`], {
    doing: DOING,
  });
}
