import { type DiskSpec, serverOfDisk } from '#core/disk.ts';
import { NightlatchError } from '#core/errors.ts';
import { type HostPath, isUuid, type ServerId } from '#core/ids.ts';
import { LUKS1_HEADER_BYTES } from '#core/sizes.ts';
import { placeOf } from '#host/storage/attachment.ts';
import { diskName } from '#host/storage/disk-file.ts';
import { CachedImages } from '#host/storage/rbd/cached-images.ts';
import { headerInImage } from '#host/storage/rbd/header.ts';
import { Images, type Pool } from '#host/storage/rbd/images.ts';
import type { RbdAttachment, StorageDriver } from '#host/storage/storage-driver.ts';

export type RbdOptions = {
  readonly pool: Pool;
  readonly runDirectory: HostPath;
  /** A copy that would share the data of more images than so many, one below the other, gets data of its own. */
  readonly maxCloneDepth?: number;
};

/** Cinder's default. */
const CLONE_DEPTH = 5;

/**
 * Keeps each disk as an image in a pool of a Ceph cluster: a server's `<server id>_<name>`, as Nova names it, a volume's
 * `volume-<id>`, as Cinder does. QEMU and `rbd` reach it over the network; there is no block device.
 *
 * An image is exactly as large as its disk and the header; it takes room as it is written.
 */
export function rbdStorage({
  pool,
  runDirectory,
  maxCloneDepth = CLONE_DEPTH,
}: RbdOptions): StorageDriver<RbdAttachment> {
  const images = new Images(pool);
  const cache = new CachedImages(images, pool.name);
  const attachment = (disk: DiskSpec): RbdAttachment => {
    const { name, ...access } = pool;
    return { format: 'raw', rbd: { pool: name, image: imageName(disk), ...access } };
  };
  return {
    capabilities: { formats: ['luks'], copyOnWrite: [null], zeroUntilWritten: false, blockDevice: false },

    async create(disk, backing) {
      if (backing !== null && disk.encryption !== null)
        throw new Error('an encrypted image in a pool has no backing file');
      const doing = `Creating disk ${disk.id}`;
      const name = imageName(disk);
      await images.remove(name, doing);
      if (backing === null) return await images.create(name, usedBytes(disk), doing);
      await cache.clone(backing, name, doing);
      await images.resize(name, usedBytes(disk), doing);
    },

    async copy(from, disk) {
      const doing = `Copying ${placeOf(from)} to disk ${disk.id}`;
      if (!('rbd' in from)) throw new Error(`${placeOf(from)} is no image in a pool`);
      const name = imageName(disk);
      await images.remove(name, doing);
      if (from.rbd.conf !== pool.conf || from.rbd.user !== pool.user) {
        await images.create(name, usedBytes(disk), doing);
        return await images.import(name, Images.around(from.rbd).export(from.rbd.image, doing), doing);
      }
      await images.clone(from.rbd, name, doing);
      if ((await images.depth(name, doing)) > maxCloneDepth) await images.flatten(name, doing);
    },

    delete: (disk) => images.remove(imageName(disk), `Removing disk ${disk.id}`),

    async grow(disk) {
      const doing = `Growing disk ${disk.id}`;
      const present = await images.find(imageName(disk), doing);
      if (present !== null && present.sizeBytes >= usedBytes(disk)) return;
      await images.resize(imageName(disk), usedBytes(disk), doing);
    },

    attachment,

    async headerRegion(disk) {
      const present = await images.find(imageName(disk), `Looking at disk ${disk.id}`);
      const length = headerBytes(disk);
      if (present === null || length === 0 || present.sizeBytes < length) {
        const path = placeOf(attachment(disk));
        throw new NightlatchError('disk-header-missing', {
          disk: disk.id,
          format: disk.encryption ?? 'encryption',
          path,
        });
      }
      return headerInImage(attachment(disk), { images, length, runDirectory });
    },

    pruneImages: (keep) => cache.prune(keep),

    capacityBytes: () => images.capacityBytes(`Looking at pool ${pool.name}`),

    async servers() {
      const names = await images.list(`Looking at pool ${pool.name}`);
      return [...new Set(names.map((name) => name.slice(0, name.indexOf('_'))))].filter(isUuid) as ServerId[];
    },
  };
}

/** As Nova and Cinder. */
function imageName(disk: DiskSpec): string {
  if (!isUuid(disk.ownerId)) throw new Error('an id that is no UUID must not become a name');
  return serverOfDisk(disk) === null ? diskName(disk) : `${disk.ownerId}_${diskName(disk)}`;
}

function headerBytes(disk: DiskSpec): number {
  return disk.encryption === null ? 0 : LUKS1_HEADER_BYTES;
}

function usedBytes(disk: DiskSpec): number {
  return disk.sizeBytes + headerBytes(disk);
}
