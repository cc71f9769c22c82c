import type { DiskSpec } from '#core/disk.ts';
import { type DiskId, type HostPath, isUuid, type ServerId } from '#core/ids.ts';
import { run } from '#host/exec.ts';
import { type CryptTable, parseCryptTable } from './table.ts';

/** One dm-crypt mapping of ours: a disk that is unlocked now. */
export type Mapping = {
  readonly name: string;
  /** cryptsetup's: `CRYPT-<type>-<uuid of the header>-<name>`, without the middle part for plain. */
  readonly uuid: string;
  readonly serverId: ServerId;
  readonly diskId: DiskId;
  /** Something has it open now. */
  readonly isOpen: boolean;
};

/** Short: device-mapper cuts a mapping's UUID, which holds its name too, at 128 characters without a word. */
const PREFIX = 'nl-';
const UUID_LENGTH = 36;
const TIMEOUT_MS = 60_000;
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
    if (!isUuid(disk.id) || !isUuid(disk.serverId)) throw new Error('an id that is no UUID must not become a name');
    return `${PREFIX}${disk.serverId}-${disk.id}`;
  }

  pathOf(name: string): HostPath {
    return `/dev/mapper/${name}` as HostPath;
  }

  async list(): Promise<Mapping[]> {
    const fields = ['-c', '--noheadings', '--separator', '|', '-o', 'name,uuid,open'];
    const { stdout } = await dmsetup(['info', ...fields], 'Listing mappings');
    return stdout.split('\n').flatMap(readMapping);
  }

  /** Null: there is no mapping of that name. */
  async find(name: string): Promise<Mapping | null> {
    return (await this.list()).find((mapping) => mapping.name === name) ?? null;
  }

  /** What a mapping really is, without its key. Null: it is no single crypt mapping. */
  async table(name: string, doing: string): Promise<CryptTable | null> {
    return parseCryptTable((await dmsetup(['table', name], doing)).stdout);
  }

  /**
   * Closes a mapping: everything written is on the medium, the key is gone. One that something still holds open loses its
   * key at once all the same, and its name when it is let go. *Repeat*: one that is not there is fine.
   */
  async close(name: string, doing: string): Promise<void> {
    const tolerate = [NOT_THERE, BUSY];
    const { code } = await run('cryptsetup', ['close', name], { doing, tolerate, timeoutMs: TIMEOUT_MS });
    if (code !== BUSY) return;
    await dmsetup(['wipe_table', name], doing);
    await dmsetup(['remove', '--deferred', name], doing);
  }
}

function readMapping(line: string): Mapping[] {
  const [name = '', uuid = '', open = ''] = line.trim().split('|');
  const serverId = name.slice(PREFIX.length, PREFIX.length + UUID_LENGTH);
  const diskId = name.slice(PREFIX.length + UUID_LENGTH + 1);
  if (!name.startsWith(PREFIX) || !isUuid(serverId) || !isUuid(diskId)) return [];
  return [{ name, uuid, serverId: serverId as ServerId, diskId: diskId as DiskId, isOpen: open !== '0' }];
}

function dmsetup(args: readonly string[], doing: string) {
  return run('dmsetup', args, { doing, timeoutMs: TIMEOUT_MS });
}
