import { type Disk, serverOfDisk } from '#core/disk.ts';
import type { HostPath } from '#core/ids.ts';
import { diskName } from '#host/storage/disk-file.ts';
import type { Pool } from '#host/storage/rbd/images.ts';
import type { RbdImage } from '#host/storage/storage-driver.ts';
import { command } from '#test/support/command.ts';

/** The pool for tests, as NIGHTLATCH_TEST_RBD_POOL says: CONF:USER:POOL. */
const [conf, user, name] = (process.env.NIGHTLATCH_TEST_RBD_POOL ?? '').split(':');
export const pool: Pool | null = conf && user && name ? { conf: conf as HostPath, user, name } : null;

/** As `findStrays`, of the pool: images without a row, rows without an image, and what nobody shares any more in its trash. */
export function findPoolStrays(disks: readonly Disk[]): string[] {
  if (pool === null) return [];
  const names = tell('ls', pool.name);
  const wanted = disks.map((disk) => (serverOfDisk(disk) === null ? '' : `${disk.ownerId}_`) + diskName(disk));
  const trash = names.length === 0 ? tell('trash', 'ls', '--all', pool.name) : [];
  return [
    ...names.filter((name) => !wanted.includes(name)).map((name) => `image ${name} is no disk's`),
    ...wanted.filter((name) => !names.includes(name)).map((name) => `there is no image ${name}`),
    ...trash.map((line) => `the pool's trash holds ${line}`),
  ];
}

function tell(...args: string[]): string[] {
  const said = command('rbd', ['--conf', pool?.conf ?? '', '--id', pool?.user ?? '', ...args]);
  return said.split('\n').filter((line) => line !== '');
}

/** The image that a volume's disk is. */
export function imageInPool(disk: Disk): RbdImage {
  if (pool === null) throw new Error(`there is no pool for tests, and disk ${disk.id} lies in one`);
  return { pool: pool.name, image: diskName(disk), conf: pool.conf, user: pool.user };
}
