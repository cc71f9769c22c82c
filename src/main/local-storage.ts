import { volumeGroupsOf } from '#config/disk-places.ts';
import type { Config } from '#config/schema.ts';
import { serverOfDisk } from '#core/disk.ts';
import { NightlatchError } from '#core/errors.ts';
import { MIB } from '#core/sizes.ts';
import type { LvmSubject } from '#host/doctor-lvm.ts';
import { kernelLuksEncryptor } from '#host/encryption/dm-crypt/kernel-luks.ts';
import { luks2Encryptor } from '#host/encryption/dm-crypt/luks2.ts';
import { Mappings } from '#host/encryption/dm-crypt/mappings.ts';
import { plainEncryptor, plainNote } from '#host/encryption/dm-crypt/plain.ts';
import { checkCipher } from '#host/encryption/dm-crypt/probe.ts';
import type { Encryptor } from '#host/encryption/encryptor.ts';
import { luksEncryptor } from '#host/encryption/luks/encryptor.ts';
import { FuseExports } from '#host/fuse-exports.ts';
import { HeaderBackups } from '#host/header-backups.ts';
import type { HostParts } from '#host/host-parts.ts';
import type { Clearing } from '#host/storage/lvm/clear.ts';
import { lvmStorage } from '#host/storage/lvm/driver.ts';
import { qcow2Storage } from '#host/storage/qcow2/driver.ts';
import { rawStorage } from '#host/storage/raw/driver.ts';
import { type RbdOptions, rbdStorage } from '#host/storage/rbd/driver.ts';
import type { Pool } from '#host/storage/rbd/images.ts';
import type { StorageDriver } from '#host/storage/storage-driver.ts';
import { poolNames, serverPool } from '#main/ceph-pools.ts';
import { openBackends } from '#main/local-backends.ts';
import type { StatePaths } from '#main/state-paths.ts';

export type LocalStorage = Pick<
  HostParts,
  | 'drivers'
  | 'backends'
  | 'encryptors'
  | 'blockEncryptors'
  | 'mappings'
  | 'exports'
  | 'headerBackups'
  | 'volumeGroups'
  | 'pools'
>;

type Cipher = LvmSubject['ciphers'][number];

/** The cipher of every LUKS disk we make, and of volumes whatever their format: a type cannot ask for another. */
const LUKS_CIPHER: Cipher = { cipher: 'aes-xts-plain64', keyBits: 512 };

/**
 * What this machine keeps disks with: files always, logical volumes where the configuration names a volume group.
 *
 * @throws bad-request when that is missing; device-mapper-unusable, naming the cipher, when the kernel cannot encrypt.
 */
export async function openLocalStorage(config: Config, paths: StatePaths): Promise<LocalStorage> {
  const exports = new FuseExports({ runDirectory: paths.run });
  const luks = luksEncryptor({ runDirectory: paths.run, exports });
  const files = {
    raw: rawStorage({ disksDirectory: paths.disks }),
    qcow2: qcow2Storage({ disksDirectory: paths.disks, cacheDirectory: paths.storageCache }),
  };
  checkFormats(config);
  if (config.libvirt.images_type === 'lvm' && config.libvirt.images_volume_group === '') throw groupMissing();
  const { groups: volumeGroups } = volumeGroupsOf(config);
  const blocks = volumeGroups.length === 0 ? NO_BLOCK_DEVICES : await openDeviceMapper(config, paths, luks);
  const openGroup = (group: string, pool: string) => openLvm(config, group, pool);
  const { images_volume_group: group, images_thin_pool: pool } = config.libvirt;
  const openPool = (pool: Pool, maxCloneDepth?: number) =>
    openRbd({ pool, runDirectory: paths.run, ...(maxCloneDepth === undefined ? {} : { maxCloneDepth }) });
  const drivers = {
    ...files,
    ...(group === '' ? {} : { lvm: await openGroup(group, pool) }),
    ...(config.libvirt.images_type === 'rbd' ? { rbd: await openPool(serverPool(config)) } : {}),
  };
  const backends = await openBackends(config, paths, { lvm: openGroup, rbd: openPool });
  const headerBackups = new HeaderBackups(paths.headers);
  return {
    exports,
    encryptors: { luks },
    ...blocks,
    drivers,
    backends,
    headerBackups,
    volumeGroups,
    pools: poolNames(config),
  };
}

const NO_BLOCK_DEVICES = { blockEncryptors: {}, mappings: null };

async function openDeviceMapper(config: Config, paths: StatePaths, luks: Encryptor) {
  for (const { cipher, keyBits } of lvmNeeds(config)?.ciphers ?? []) await checkCipher(cipher, keyBits);
  const mappings = new Mappings();
  const options = {
    noReadWorkqueue: config.libvirt.no_read_workqueue,
    noWriteWorkqueue: config.libvirt.no_write_workqueue,
  };
  return {
    blockEncryptors: {
      plain: plainEncryptor(mappings, options),
      luksv2: luks2Encryptor(mappings, options, paths.run),
      ...(config.libvirt.luks_engine === 'dm-crypt' ? { luks: kernelLuksEncryptor(luks, mappings, options) } : {}),
    },
    mappings,
  };
}

/** Asks for its size, so that a group that does not exist stops the start. */
async function openLvm(config: Config, volumeGroup: string, thinPool: string): Promise<StorageDriver> {
  const plain = plainCipher(config);
  const driver = lvmStorage({
    volumeGroup,
    thinPool: thinPool || null,
    noteOf: (disk) => {
      if (disk.encryption !== 'plain') return null;
      return plainNote(disk, serverOfDisk(disk) === null ? LUKS_CIPHER : plain);
    },
    clearing: clearingOf(config),
  });
  await driver.capacityBytes?.();
  return driver;
}

/** Looks into it, so that a cluster that does not answer, or has no such pool, stops the start. */
async function openRbd(options: RbdOptions): Promise<StorageDriver> {
  const driver = rbdStorage(options);
  await driver.servers?.();
  return driver;
}

/** What the configuration promises of new disks, the way they are stored must be able to keep. */
function checkFormats({ libvirt: { images_type }, ephemeral_storage_encryption: legacy }: Config): void {
  if (images_type === 'lvm') return;
  const refuse = (reason: string) => new NightlatchError('bad-request', { reason });
  if (legacy.enabled) {
    throw refuse(
      `[ephemeral_storage_encryption] enabled is true and [libvirt] images_type is "${images_type}": it encrypts logical ` +
        'volumes only. Use images_type = "lvm", or hw:ephemeral_encryption on flavors.',
    );
  }
  if (legacy.default_format !== 'luks') {
    throw refuse(
      `[ephemeral_storage_encryption] default_format is "${legacy.default_format}" and [libvirt] images_type is ` +
        `"${images_type}", which can do luks only. Use default_format = "luks", or images_type = "lvm".`,
    );
  }
}

function clearingOf({ libvirt }: Config): Clearing {
  const { volume_clear: way, volume_clear_size: mib, volume_clear_encrypted: encryptedToo } = libvirt;
  if (way === 'shred' && libvirt.images_thin_pool !== '') {
    throw new NightlatchError('bad-request', {
      reason:
        '[libvirt] volume_clear is "shred" and images_thin_pool is set: what a thin volume left cannot be reached to be ' +
        'overwritten. Choose "zero" or "none", or leave out the pool.',
    });
  }
  return { way, limitBytes: mib === 0 ? null : mib * MIB, encryptedToo };
}

/** What a configuration with logical volumes needs of its host; null: it has none. */
export function lvmNeeds(config: Config): LvmSubject | null {
  const places = lvmPlaces(config);
  if (places.length === 0) return null;
  const ciphers = [LUKS_CIPHER, plainCipher(config)];
  const distinct = new Map(ciphers.map((one) => [`${one.cipher} ${one.keyBits}`, one]));
  return { places, ciphers: [...distinct.values()] };
}

function lvmPlaces({ libvirt, volume_backends }: Config): LvmSubject['places'] {
  const own = { volume_group: libvirt.images_volume_group, thin_pool: libvirt.images_thin_pool };
  const lvm = Object.values(volume_backends).filter(({ volume_driver }) => volume_driver === 'lvm');
  const named = [own, ...lvm].filter(({ volume_group }) => volume_group !== '');
  const distinct = new Map(named.map((place) => [`${place.volume_group}/${place.thin_pool}`, place]));
  return [...distinct.values()].map(({ volume_group: volumeGroup, thin_pool: thinPool }) => {
    return { volumeGroup, thinPool: thinPool || null };
  });
}

function plainCipher({ ephemeral_storage_encryption: { cipher, key_size } }: Config): Cipher {
  return { cipher, keyBits: key_size };
}

function groupMissing(): NightlatchError {
  return new NightlatchError('bad-request', {
    reason: 'images_type is "lvm" and images_volume_group is empty. Name the volume group for disks in [libvirt].',
  });
}
