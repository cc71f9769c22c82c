import { type DiskSpec, serverOfDisk } from '#core/disk.ts';
import { NightlatchError } from '#core/errors.ts';
import { type HostPath, isUuid, type ServerId } from '#core/ids.ts';
import { LUKS1_HEADER_BYTES, LUKS2_HEADER_BYTES } from '#core/sizes.ts';
import { run } from '#host/exec.ts';
import { syncFile } from '#host/files.ts';
import { pathOf } from '#host/storage/attachment.ts';
import { diskName } from '#host/storage/disk-file.ts';
import { headerInFile } from '#host/storage/header-file.ts';
import { type Clearing, clearVolume } from '#host/storage/lvm/clear.ts';
import { type Volume, Volumes } from '#host/storage/lvm/volumes.ts';
import type { FileAttachment, StorageDriver } from '#host/storage/storage-driver.ts';

export type LvmOptions = {
  /** Exists; what else lies in it is left alone. */
  readonly volumeGroup: string;
  /** A thin pool in it that disks take their room from as they are written; null: they take it whole. */
  readonly thinPool: string | null;
  /** What to note at a disk's volume when it is made (see `HeaderRegion.note`); letters, digits and `_+.:-`. */
  readonly noteOf: (disk: DiskSpec) => string | null;
  readonly clearing: Clearing;
};

/** Marks a volume as one disk's; only a volume with its disk's own mark is ever written, grown or removed. */
const DISK_TAG = 'nightlatch:disk:';
const NOTE_TAG = 'nightlatch:note:';
/** At least this much is zeroed of an encrypted disk, so that a header of any format that lay there is gone. */
const OLD_HEADER_BYTES = LUKS2_HEADER_BYTES;
const ZERO_TIMEOUT_MS = 3 * 60 * 60_000;
const COPY_TIMEOUT_MS = 24 * 60 * 60_000;

/**
 * Keeps each disk as a logical volume: a server's `<server id>_<name>`, named as Nova names it, a volume's and a snapshot's
 * `volume-<id>` and `_snapshot-<id>`, as Cinder does.
 *
 * A volume is a whole number of extents; the disk is its first `blockDevice.usedBytes` bytes. Volumes that take their
 * room whole lie where others lay: an unencrypted disk is zeroed before anyone sees it, an encrypted one shows noise.
 */
export function lvmStorage({ volumeGroup, thinPool, noteOf, clearing }: LvmOptions): StorageDriver<FileAttachment> {
  const volumes = new Volumes(volumeGroup);
  const find = async (disk: DiskSpec, doing: string): Promise<Volume | 'foreign' | null> => {
    const volume = await volumes.find(volumeName(disk), doing);
    return volume === null || volume.tags.includes(DISK_TAG + disk.id) ? volume : 'foreign';
  };
  /** Makes the volume of a disk anew, whatever it holds; returns its path. */
  const make = async (disk: DiskSpec, doing: string): Promise<HostPath> => {
    const name = volumeName(disk);
    const path = volumes.pathOf(name);
    const present = await find(disk, doing);
    if (present === 'foreign') throw new NightlatchError('disk-not-ours', { doing, path });
    if (present !== null) await volumes.remove(name, doing);
    const note = noteOf(disk);
    const tags = [DISK_TAG + disk.id, ...(note === null ? [] : [NOTE_TAG + note])];
    await volumes.create(name, usedBytes(disk), thinPool, tags, doing);
    return path;
  };
  return {
    capabilities: {
      formats: ['luks', 'luksv2', 'plain'],
      copyOnWrite: [],
      zeroUntilWritten: false,
      blockDevice: true,
    },

    async create(disk, backing) {
      if (backing !== null) throw new Error('a logical volume has no backing file');
      const doing = `Creating disk ${disk.id}`;
      const path = await make(disk, doing);
      if (thinPool === null) await zero(disk, path, doing);
    },

    async copy(source, disk) {
      const from = pathOf(source);
      const doing = `Copying ${from} to disk ${disk.id}`;
      const path = await make(disk, doing);
      const node = { driver: 'raw', size: usedBytes(disk), file: { driver: 'host_device', filename: from } };
      // Zeros are written to a volume that lies where others lay; a thin one has them already.
      const zeros = thinPool === null ? ['-S', '0'] : ['--target-is-zero'];
      const args = ['convert', '-n', ...zeros, '-O', 'raw', `json:${JSON.stringify(node)}`, path];
      await run('qemu-img', args, { doing, timeoutMs: COPY_TIMEOUT_MS });
      await syncFile(path);
    },

    async delete(disk) {
      const doing = `Removing disk ${disk.id}`;
      const present = await find(disk, doing);
      if (present === null || present === 'foreign') return;
      // What a thin volume gives back, its pool clears before it gives it out again; to overwrite it would take room first.
      if (thinPool === null) await clearVolume(disk, volumes.pathOf(present.name), present.sizeBytes, clearing);
      await volumes.remove(present.name, doing);
    },

    async grow(disk, hadBytes) {
      const doing = `Growing disk ${disk.id}`;
      const present = await find(disk, doing);
      if (present === null || present === 'foreign') throw missing(disk, volumes, present);
      if (present.sizeBytes < usedBytes(disk)) await volumes.extend(present.name, usedBytes(disk), doing);
      if (thinPool !== null || disk.encryption !== null) return;
      await zeroOut(volumes.pathOf(present.name), hadBytes, disk.sizeBytes - hadBytes, doing);
    },

    attachment: (disk) => ({
      path: volumes.pathOf(volumeName(disk)),
      format: 'raw',
      blockDevice: { usedBytes: usedBytes(disk) },
    }),

    async headerRegion(disk) {
      const present = await find(disk, `Looking at disk ${disk.id}`);
      if (present === null || present === 'foreign') throw missing(disk, volumes, present);
      if (disk.encryption === null || present.sizeBytes < headerBytes(disk)) throw headerMissing(disk, volumes);
      const note = present.tags.find((tag) => tag.startsWith(NOTE_TAG))?.slice(NOTE_TAG.length);
      const region = { path: volumes.pathOf(present.name), offset: 0, length: headerBytes(disk) };
      return headerInFile(note === undefined ? region : { ...region, note });
    },

    async capacityBytes() {
      const doing = `Looking at volume group ${volumeGroup}`;
      if (thinPool === null) return await volumes.groupSize(doing);
      const pool = await volumes.find(thinPool, doing);
      if (pool === null)
        throw new NightlatchError('bad-request', { reason: `${doing} failed: it has no ${thinPool}.` });
      return pool.sizeBytes;
    },

    async servers() {
      const all = await volumes.list(`lv_name=~"_"`, `Looking at volume group ${volumeGroup}`);
      const ours = all.filter(({ tags }) => tags.some((tag) => tag.startsWith(DISK_TAG)));
      return [...new Set(ours.map(({ name }) => name.slice(0, name.indexOf('_'))))].filter(isUuid) as ServerId[];
    },
  };
}

/** As Nova and Cinder. Of a server's disk, underscores of its own name are doubled: the first single one ends the server's id. */
function volumeName(disk: DiskSpec): string {
  if (!isUuid(disk.ownerId)) throw new Error('an id that is no UUID must not become a name');
  if (serverOfDisk(disk) === null) return diskName(disk);
  return `${disk.ownerId}_${diskName(disk).replaceAll('_', '__')}`;
}

function headerBytes(disk: DiskSpec): number {
  if (disk.encryption === 'luks') return LUKS1_HEADER_BYTES;
  return disk.encryption === 'luksv2' ? LUKS2_HEADER_BYTES : 0;
}

function usedBytes(disk: DiskSpec): number {
  return disk.sizeBytes + headerBytes(disk);
}

async function zero(disk: DiskSpec, path: string, doing: string): Promise<void> {
  const length = disk.encryption === null ? usedBytes(disk) : Math.min(OLD_HEADER_BYTES, usedBytes(disk));
  await zeroOut(path, 0, length, doing);
}

async function zeroOut(path: string, offset: number, length: number, doing: string): Promise<void> {
  const range = ['--offset', String(offset), '--length', String(length)];
  await run('blkdiscard', ['--zeroout', ...range, path], { doing, timeoutMs: ZERO_TIMEOUT_MS });
}

function missing(disk: DiskSpec, volumes: Volumes, present: 'foreign' | null): NightlatchError {
  if (disk.encryption !== null && disk.encryption !== 'plain') return headerMissing(disk, volumes);
  const reason = present === null ? 'does not exist' : 'was not made for it';
  return new NightlatchError('disk-missing', { disk: disk.id, path: volumes.pathOf(volumeName(disk)), reason });
}

function headerMissing(disk: DiskSpec, volumes: Volumes): NightlatchError {
  const path = volumes.pathOf(volumeName(disk));
  return new NightlatchError('disk-header-missing', { disk: disk.id, format: disk.encryption ?? 'encryption', path });
}
