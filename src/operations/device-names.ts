import type { Disk } from '#core/disk.ts';
import { badRequest, NightlatchError } from '#core/errors.ts';
import type { ServerId } from '#core/ids.ts';
import type { Queryable } from '#db/database.ts';
import { disksOf } from '#db/disks.ts';
import { attachmentsToServer, devicesEverUsed } from '#db/volume-attachments.ts';

const LETTERS = 'abcdefghijklmnopqrstuvwxyz';
const NAMES = [...LETTERS].map((letter) => `/dev/vd${letter}`);
export const ROOT_DEVICE = '/dev/vda';

/** `vdb` of `/dev/vdb`. */
export function targetOf(device: string): string {
  return device.replace(/^\/dev\//, '');
}

/**
 * The names of a server's `count` own disks: in their order, the first that no volume of it ever had. So they do not
 * change under a guest that runs, whatever is attached, detached or added by a resize meanwhile.
 */
export function ownDevices(count: number, everUsed: ReadonlySet<string>): string[] {
  return NAMES.filter((name) => !everUsed.has(name)).slice(0, count);
}

/** Whether the guest of an unrescued server has this disk of its own. */
export function isOwnDevice({ role, standing }: Pick<Disk, 'role' | 'standing'>): boolean {
  return standing === 'live' && role !== 'memory' && role !== 'snapshot' && role !== 'rescue';
}

/**
 * The name that a volume gets which is attached to a server: the wished for one, else the first that is free. `others`: as
 * of volumes that it is about to get.
 * @throws conflict when the wished for name is taken; refused (403) when a server has no name left.
 */
export async function freeDevice(tx: Queryable, serverId: ServerId, wished: string | null): Promise<string> {
  const own = (await disksOf(tx, serverId)).filter(isOwnDevice).length;
  const volumes = (await attachmentsToServer(tx, serverId)).flatMap(({ device }) => device ?? []);
  const taken = new Set([...volumes, ...ownDevices(own, await devicesEverUsed(tx, serverId))]);
  return chooseDevice(taken, wished);
}

/** @throws as `freeDevice`. */
export function chooseDevice(taken: ReadonlySet<string>, wished: string | null): string {
  if (wished === null) {
    const free = NAMES.find((name) => !taken.has(name));
    if (!free) throw new NightlatchError('refused', { reason: 'Maximum number of volumes exceeded' });
    return free;
  }
  const device = wished.startsWith('/dev/') ? wished : `/dev/${wished}`;
  if (!NAMES.includes(device)) throw badRequest(`The supplied device path (${wished}) is invalid.`);
  if (taken.has(device)) {
    throw new NightlatchError('conflict', { reason: `The supplied device path (${wished}) is in use.` });
  }
  return device;
}
