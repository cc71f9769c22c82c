import { execFile } from 'node:child_process';
import { open, readFile } from 'node:fs/promises';
import { promisify } from 'node:util';
import type { HostPath } from '#core/ids.ts';
import { LUKS2_HEADER_BYTES, MIB } from '#core/sizes.ts';
import { waitUntil } from '#test/support/wait.ts';

/**
 * The volume group that tests may fill, and the thin pool in it, where there are any: in the second kernel. What is in
 * them is looked at by LVM's and device-mapper's own programs, never by the code under test.
 */
export const volumeGroup = process.env.NIGHTLATCH_TEST_VOLUME_GROUP ?? '';
export const thinPool = process.env.NIGHTLATCH_TEST_THIN_POOL ?? '';

/** A logical volume that was made for a disk; `diskId` by the mark it carries. */
export type DiskVolume = { readonly name: string; readonly path: string; readonly diskId: string };

/** A crypt mapping of this kernel, whoever made it. */
export type CryptMapping = {
  readonly name: string;
  readonly uuid: string;
  /** The key as `dmsetup table --showkeys` tells it: hex digits, or the name of a key in the kernel's keyring; `-`: none. */
  readonly key: string;
  /** Whether the kernel has it: zeros are what is left where one was wiped. */
  readonly hasKey: boolean;
  /** `major:minor` of the device below. */
  readonly device: string;
  /** It lets nothing through. */
  readonly suspended: boolean;
};

const MARK = 'nightlatch:disk:';
/** The largest header, and the rest of an extent. */
const MOST_BESIDE_DISK_BYTES = LUKS2_HEADER_BYTES + 4 * MIB;
const REPORT = ['--noheadings', '--separator', '|', '-o'];

export async function diskVolumes(): Promise<DiskVolume[]> {
  const lines = await tell('lvs', ...NO_MAPPINGS, ...REPORT, 'lv_name,lv_path,lv_tags', volumeGroup);
  return lines.flatMap((line) => {
    const [name = '', path = '', tags = ''] = line.split('|');
    const mark = tags.split(',').find((tag) => tag.startsWith(MARK));
    return mark === undefined ? [] : [{ name, path, diskId: mark.slice(MARK.length) }];
  });
}

export async function cryptMappings(): Promise<CryptMapping[]> {
  const tables = (await tell('dmsetup', 'table', '--showkeys')).filter((line) => / crypt /.test(line));
  return await Promise.all(
    tables.map(async (line) => {
      const [label = '', , , , , key = '', , device = ''] = line.split(' ');
      const name = label.slice(0, -1);
      const fields = ['-c', '--noheadings', '--separator', '|', '-o', 'uuid,suspended'];
      const [uuid = '', suspended = ''] = ((await tell('dmsetup', 'info', ...fields, name))[0] ?? '').split('|');
      return { name, uuid, key, hasKey: !/^(0+|-)$/.test(key), device, suspended: suspended === 'Suspended' };
    }),
  );
}

/** Keys that the kernel's keyrings hold for disks, as its own list of them has them. */
export async function diskKeysInKeyrings(): Promise<string[]> {
  return (await readFile('/proc/keys', 'utf8'))
    .split('\n')
    .filter((line) => /cryptsetup|dm-crypt|nightlatch/.test(line));
}

/**
 * A disk's volume, by the mark it carries. While the disk is open its size is that of the mapping; otherwise the one it was
 * asked to have, for which its volume has room and not much more.
 */
export async function lookAtVolume(disk: {
  readonly id: string;
  readonly ownerId: string;
  readonly sizeBytes: number;
}): Promise<{ readonly path: HostPath; readonly format: string; readonly sizeBytes: number }> {
  const volume = (await diskVolumes()).find(({ diskId }) => diskId === disk.id);
  if (!volume) throw new Error(`disk ${disk.id} has no volume`);
  const name = `nl-${disk.ownerId}-${disk.id}`;
  const isOpen = (await cryptMappings()).some((mapping) => mapping.name === name);
  const bytes = async (path: string) => Number((await tell('blockdev', '--getsize64', path))[0]);
  const spare = (await bytes(volume.path)) - disk.sizeBytes;
  if (spare < 0 || spare > MOST_BESIDE_DISK_BYTES) throw new Error(`volume ${volume.name} has ${spare} bytes to spare`);
  const sizeBytes = isOpen ? await bytes(`/dev/mapper/${name}`) : disk.sizeBytes;
  return { path: volume.path as HostPath, format: await formatOf(volume.path), sizeBytes };
}

/** `luks`, `luksv2`, or `raw` for what has no header. */
async function formatOf(path: string): Promise<string> {
  await using file = await open(path, 'r');
  const { buffer } = await file.read(Buffer.alloc(8), 0, 8, 0);
  if (buffer.toString('latin1', 0, 6) !== 'LUKS\xba\xbe') return 'raw';
  return buffer.readUInt16BE(6) === 1 ? 'luks' : 'luksv2';
}

/** The UUID in a LUKS header. */
export async function headerUuid(path: string): Promise<string> {
  return (await tell('cryptsetup', 'luksUUID', path))[0] ?? '';
}

/** Whether any of these texts is on a device, or in its first `bytes`. */
export async function deviceHolds(path: string, texts: readonly string[], bytes: number): Promise<boolean> {
  const search = `head -c ${bytes} "$1" | { shift; grep -qaF "$@"; }`;
  const { code } = await execute('sh', ['-c', search, 'sh', path, ...texts.flatMap((text) => ['-e', text])]).then(
    () => ({ code: 0 }),
    (error: { code: number }) => error,
  );
  // grep(1): 1 is "not found", anything else trouble.
  if (code > 1) throw new Error(`searching ${path} ended with ${code}`);
  return code === 0;
}

/** Closes and removes all that was made for disks; a guest that was killed lets go of them a moment later. */
export async function clearVolumeGroup(): Promise<void> {
  for (const { name } of await cryptMappings()) await tell('dmsetup', 'remove', '--force', '--retry', name);
  for (const { name } of await diskVolumes()) {
    const isGone = () =>
      tell('lvremove', ...NO_MAPPINGS, '-f', `${volumeGroup}/${name}`).then(
        () => true,
        () => false,
      );
    await waitUntil(`the volume ${name} is removed`, isGone, 30_000);
  }
}

const execute = promisify(execFile);

/** What guests have written is none of the host's volumes, and a mapping without its key is nothing to wait for. */
export const NO_MAPPINGS = ['--config', 'devices/filter="r|^/dev/mapper/nl-|"'];

async function tell(program: string, ...args: string[]): Promise<string[]> {
  const { stdout } = await execute(program, args, { env: { PATH: process.env.PATH ?? '', LC_ALL: 'C' } });
  return stdout
    .split('\n')
    .map((line) => line.trim())
    .filter((line) => line !== '');
}
