import { execFile } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { promisify } from 'node:util';
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
