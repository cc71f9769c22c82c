import { readdir, readFile } from 'node:fs/promises';
import type { DiskOwnerId, DiskSpec } from '#core/disk.ts';
import { type DiskId, type HostPath, isUuid } from '#core/ids.ts';
import type { Secret } from '#core/secret.ts';
import { SECTOR } from '#core/sizes.ts';
import { run } from '#host/exec.ts';
import { type CryptTable, parseCryptTable } from './table.ts';

/** One dm-crypt mapping of ours: a disk that is unlocked now. */
export type Mapping = {
  readonly name: string;
  /** cryptsetup's: `CRYPT-<type>-<uuid of the header>-<name>`, without the middle part for plain. */
  readonly uuid: string;
  readonly ownerId: DiskOwnerId;
  readonly diskId: DiskId;
  /** Reading and writing wait; its key may be wiped. */
  readonly isSuspended: boolean;
};

/** Short: device-mapper cuts a mapping's UUID, which holds its name too, at 128 characters without a word. */
const PREFIX = 'nl-';
const UUID_LENGTH = 36;
const TIMEOUT_MS = 60_000;
/** The kernel's block devices, each a folder; device-mapper's tell their names there, to anyone. */
const DEVICES = '/sys/block';
/** cryptsetup(8): the device does not exist, so there is nothing to close. */
const NOT_THERE = 4;
/** cryptsetup(8): the device is in use. It has tried again for some seconds by then. */
const BUSY = 5;

/**
 * The dm-crypt mappings of this kernel that are ours, told by their names. They outlive this process: what a crash left
 * open stays open until it is closed here, or the machine ends.
 */
export class Mappings {
  nameOf(disk: DiskSpec): string {
    if (!isUuid(disk.id) || !isUuid(disk.ownerId)) throw new Error('an id that is no UUID must not become a name');
    return `${PREFIX}${disk.ownerId}-${disk.id}`;
  }

  pathOf(name: string): HostPath {
    return `/dev/mapper/${name}` as HostPath;
  }

  /** Needs no privilege and starts no program. */
  async list(): Promise<Mapping[]> {
    const devices = (await readdir(DEVICES)).filter((device) => device.startsWith('dm-'));
    const found = await Promise.all(devices.map((device) => readMapping(`${DEVICES}/${device}/dm`)));
    return found.filter((mapping) => mapping !== null);
  }

  /** The names of those that something has open now. */
  async opened(): Promise<ReadonlySet<string>> {
    const fields = ['-c', '--noheadings', '--separator', '|', '-o', 'name,open'];
    const { stdout } = await dmsetup(['info', ...fields], 'Looking which mappings are in use');
    const lines = stdout.split('\n').map((line) => line.trim().split('|'));
    return new Set(lines.flatMap(([name, count]) => (name && count && count !== '0' ? [name] : [])));
  }

  /** Makes an open mapping as large as its disk is. The key is needed once more, since the kernel tells nobody what it has. */
  async resize(disk: DiskSpec, key: Secret, doing: string): Promise<void> {
    const args = ['resize', '--size', String(disk.sizeBytes / SECTOR), '--key-file=-', this.nameOf(disk)];
    await run('cryptsetup', args, { doing, stdin: key, timeoutMs: TIMEOUT_MS });
  }

  /** Null: there is no mapping of that name. */
  async find(name: string): Promise<Mapping | null> {
    return (await this.list()).find((mapping) => mapping.name === name) ?? null;
  }

  /** What a mapping really is, without its key. Null: it is no single crypt mapping. */
  async table(name: string, doing: string): Promise<CryptTable | null> {
    return parseCryptTable(await this.tableLine(name, doing));
  }

  /** The kernel's own words for it, with zeros for the key, or the name of the key. */
  async tableLine(name: string, doing: string): Promise<string> {
    return (await dmsetup(['table', name], doing)).stdout;
  }

  /** Makes reading and writing wait, then wipes the key from the kernel. *Repeat*: fine. */
  async suspend(name: string, doing: string): Promise<void> {
    await dmsetup(['suspend', name], doing);
    // A `replaceTable` that was cut short may have left one that has the key.
    await dmsetup(['clear', name], doing);
    await dmsetup(['message', name, '0', 'key', 'wipe'], doing);
  }

  /** Gives a suspended mapping this table, key included, and lets what waited go on. *Repeat*: fine. */
  async replaceTable(name: string, table: Secret, doing: string): Promise<void> {
    await run('dmsetup', ['reload', name], { doing, stdin: table, timeoutMs: TIMEOUT_MS });
    await dmsetup(['resume', name], doing);
  }

  /**
   * What waits for a suspended mapping of those that `which` names fails from now on, instead of holding up the end of
   * the process that waits. *Repeat*: fine.
   */
  async failSuspended(doing: string, which: (mapping: Mapping) => boolean = () => true): Promise<void> {
    const suspended = (await this.list()).filter((mapping) => mapping.isSuspended && which(mapping));
    for (const { name } of suspended) await dmsetup(['wipe_table', name], doing);
  }

  /**
   * Closes a mapping: everything written is on the medium, the key is gone. One that something still holds open loses its
   * key at once all the same, and its name when it is let go. *Repeat*: one that is not there is fine.
   */
  async close(name: string, doing: string): Promise<void> {
    if ((await this.find(name)) === null) return;
    const tolerate = [NOT_THERE, BUSY];
    const { code } = await run('cryptsetup', ['close', name], { doing, tolerate, timeoutMs: TIMEOUT_MS });
    if (code !== BUSY) return;
    await dmsetup(['wipe_table', name], doing);
    await dmsetup(['remove', '--deferred', name], doing);
  }

  /** Closes each that `which` names, one after another. */
  async closeEach(doing: string, which: (mapping: Mapping) => boolean): Promise<void> {
    for (const mapping of await this.list()) {
      if (which(mapping)) await this.close(mapping.name, `${doing} ${mapping.ownerId}`);
    }
  }
}

/** Null: it is none of ours, or went while it was looked at. */
async function readMapping(folder: string): Promise<Mapping | null> {
  const [name = '', uuid = '', suspended] = await Promise.all(
    // A device that is being removed refuses, with one error or another.
    ['name', 'uuid', 'suspended'].map((field) => readFile(`${folder}/${field}`, 'utf8').then(trim, () => '')),
  );
  const ownerId = name.slice(PREFIX.length, PREFIX.length + UUID_LENGTH);
  const diskId = name.slice(PREFIX.length + UUID_LENGTH + 1);
  if (!name.startsWith(PREFIX) || !isUuid(ownerId) || !isUuid(diskId)) return null;
  const owner = { ownerId: ownerId as DiskOwnerId, diskId: diskId as DiskId };
  return { name, uuid, ...owner, isSuspended: suspended === '1' };
}

function trim(text: string): string {
  return text.trim();
}

function dmsetup(args: readonly string[], doing: string) {
  return run('dmsetup', args, { doing, timeoutMs: TIMEOUT_MS });
}
