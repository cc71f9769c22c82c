import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { type Disk, serverOfDisk } from '#core/disk.ts';
import type { HostPath } from '#core/ids.ts';
import { diskName } from '#host/storage/disk-file.ts';
import type { Pool } from '#host/storage/rbd/images.ts';
import type { RbdImage } from '#host/storage/storage-driver.ts';
import type { CephCluster } from '#test/support/ceph-cluster.ts';
import { command } from '#test/support/command.ts';
import { waitUntil } from '#test/support/wait.ts';

/** The pool for tests, as NIGHTLATCH_TEST_RBD_POOL says: CONF:USER:POOL. */
const [conf, user, name] = (process.env.NIGHTLATCH_TEST_RBD_POOL ?? '').split(':');
export const pool: Pool | null = conf && user && name ? { conf: conf as HostPath, user, name } : null;

/** What is kept of images, for disks to share; the images that hosts keep go at times of their own. */
const KEPT_OF_IMAGES = 'cached-';

/** Where volumes lie that lie in pools, by their backend; that of no name: of every other. */
const pools = new Map<string, Pool>(pool === null ? [] : [['', pool]]);

/** From now on the volumes of a backend, and of every backend that was not named, lie in this pool. */
export function usePool({ conf, user }: CephCluster, name: string, backend = ''): void {
  pools.set(backend, { conf, user, name });
}

/** @throws when there is none. */
export function poolOf(backend: string | null): Pool {
  const found = pools.get(backend ?? '') ?? pools.get('');
  if (!found) throw new Error(`there is no pool for backend ${backend}`);
  return found;
}

/** As `findStrays`, of the pools: images without a row, rows without an image, and what nobody shares any more in the trash. */
export function findPoolStrays(disks: readonly Disk[]): string[] {
  return [...pools.values()].flatMap((each) => {
    const names = imagesIn(each).filter((name) => !name.startsWith(KEPT_OF_IMAGES));
    const own = disks.filter((disk) => poolOf(disk.backend).name === each.name);
    const wanted = own.map((disk) => (serverOfDisk(disk) === null ? '' : `${disk.ownerId}_`) + diskName(disk));
    const trash = names.length === 0 ? trashOf(each) : [];
    return [
      ...names.filter((name) => !wanted.includes(name)).map((name) => `image ${name} is no disk's`),
      ...wanted.filter((name) => !names.includes(name)).map((name) => `there is no image ${name}`),
      ...trash.map((line) => `the trash of pool ${each.name} holds ${line}`),
    ];
  });
}

export function imagesIn(pool: Pool): string[] {
  return tell(pool, 'ls', pool.name);
}

/** Images that were deleted, and whose data others share. */
export function trashOf(pool: Pool): string[] {
  return tell(pool, 'trash', 'ls', '--all', pool.name);
}

function tell(pool: Pool, ...args: string[]): string[] {
  const said = command('rbd', [...accessTo(pool), ...args]);
  return said.split('\n').filter((line) => line !== '');
}

/** The image that a volume's disk is. */
export function imageInPool(disk: Disk): RbdImage {
  const { name, conf, user } = poolOf(disk.backend);
  return { pool: name, image: diskName(disk), conf, user };
}

/** How `rbd` is told who asks. */
export function accessTo({ conf, user }: Pick<RbdImage, 'conf' | 'user'>): string[] {
  return ['--conf', conf, '--id', user];
}

/** Has an image open as a guest has it, until the scope ends. */
export async function watch(rbd: RbdImage): Promise<AsyncDisposable> {
  const place = `${rbd.pool}/${rbd.image}`;
  const watcher = spawn('rbd', [...accessTo(rbd), 'watch', place], {
    // It ends with its input.
    stdio: ['pipe', 'ignore', 'ignore'],
  });
  const said = () => command('rbd', [...accessTo(rbd), 'status', place]);
  await waitUntil(`${place} is watched`, async () => !/Watchers: none/.test(said()), 30_000);
  return {
    async [Symbol.asyncDispose]() {
      const gone = once(watcher, 'exit');
      watcher.kill();
      await gone;
    },
  };
}
