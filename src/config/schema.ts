import { hostname } from 'node:os';
import { z } from 'zod';
import { ADDRESS_AND_PORT } from '#core/address.ts';
import { storageFormats } from '#core/disk.ts';
import { encryptionFormats } from '#core/encryption-intent.ts';

const defaults = z.strictObject({
  state_path: z
    .string()
    .startsWith('/', 'must be an absolute path')
    .default('/var/lib/nightlatch')
    .describe('The data directory: database, keys, images, disks and run-time state. At most 60 characters long.'),
  host: z
    .string()
    .min(1)
    .default(hostname())
    .describe('Name of this compute host. The machine’s host name when absent.'),
  local_host: z
    .boolean()
    .default(true)
    .describe('Whether `nightlatch serve` runs guests on its own machine too. `false`: on enrolled hosts only.'),
  shutdown_timeout: z
    .number()
    .int()
    .min(0)
    .default(60)
    .describe('Seconds a guest gets to shut down by itself before a stop ends it. 0: end it at once.'),
  shelved_offload_time: z
    .number()
    .int()
    .min(-1)
    .default(0)
    .describe('Seconds after which a shelved server leaves its host. 0: at once. -1: never by itself.'),
  resume_guests_state_on_host_boot: z
    .boolean()
    .default(false)
    .describe(
      'After the host has booted anew, servers that were active before are started again. Off: they are SHUTOFF.',
    ),
  default_volume_type: z
    .string()
    .min(1)
    .max(255)
    .default('__DEFAULT__')
    .describe('Name of the volume type of volumes that are created without one. `__DEFAULT__` always exists.'),
  enable_force_upload: z
    .boolean()
    .default(false)
    .describe('Whether a volume that is in use can be made an image, with `force`. `false`: the flag is ignored.'),
  volume_copy_bps_limit: z
    .number()
    .int()
    .min(0)
    .default(0)
    .describe(
      'How fast the data of a volume is moved to another disk, at most, in bytes per second, where nobody asks for more or less. 0: as fast as it goes.',
    ),
  image_size_cap: z
    .number()
    .int()
    .min(1)
    .default(1024 ** 4)
    .describe('Largest image a user may upload, in bytes.'),
});

const api = z.strictObject({
  listen: z
    .string()
    .regex(ADDRESS_AND_PORT, 'must be ADDRESS:PORT')
    .default('127.0.0.1:5000')
    .describe('Where the APIs are served, ADDRESS:PORT. Port 0 takes a free one.'),
  public_url: z
    .string()
    .regex(/^(https?:\/\/[^\s]+[^/\s])?$/, 'must be a URL without a slash at its end')
    .default('')
    .describe('The address that the catalog gives clients. Empty: made from `listen`.'),
});

const database = z.strictObject({
  connection: z
    .string()
    .regex(/^(postgres(ql)?:\/\/.*)?$/, 'must start with postgresql://')
    .default('')
    .describe('PostgreSQL, as postgresql://user@host/name. Empty: a private PostgreSQL under the data directory.'),
});

const token = z.strictObject({
  expiration: z.number().int().min(1).default(3600).describe('Seconds until a token expires.'),
});

const keyManager = z.strictObject({
  backend: z.enum(['local']).default('local').describe('Where secrets are kept. `local`: wrapped, in the database.'),
  root_key_file: z
    .string()
    .regex(/^(\/.*)?$/, 'must be an absolute path')
    .default('')
    .describe(
      'The key that wraps every local secret: 32 bytes, mode 0600. Empty: `root.key` in the data directory, made at the ' +
        'first start. The systemd credential `nightlatch-root-key` and the variable NIGHTLATCH_ROOT_KEY_FILE go before it.',
    ),
});

const volumeGroupName = z
  .string()
  .regex(/^([a-zA-Z0-9+_.][a-zA-Z0-9+_.-]*)?$/, 'must be the name of a volume group')
  .default('');
const thinPoolName = z
  .string()
  .regex(/^([a-zA-Z0-9+_.][a-zA-Z0-9+_.-]*)?$/, 'must be the name of a logical volume')
  .default('');

const cephName = z.string().regex(/^[A-Za-z0-9_.-]+$/, 'must be letters, digits, and _ . -');
const cephConf = z.string().startsWith('/', 'must be an absolute path').default('/etc/ceph/ceph.conf');
const secretUuid = z
  .string()
  .regex(/^([0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12})?$/, 'must be a UUID')
  .default('');

const libvirt = z.strictObject({
  connection_uri: z
    .string()
    .default('')
    .describe('libvirt to use, such as qemu:///system. Empty: a private libvirt under the data directory.'),
  virt_type: z
    .enum(['auto', 'kvm', 'qemu'])
    .default('auto')
    .describe('`kvm` uses the processor, `qemu` emulates one. `auto`: kvm when a probe shows that it really runs.'),
  images_type: z.enum(storageFormats).default('qcow2').describe('How new server disks are stored.'),
  images_volume_group: volumeGroupName.describe(
    'The LVM volume group for disks, with `images_type = "lvm"`. It exists; what else lies in it is left alone.',
  ),
  images_thin_pool: thinPoolName.describe(
    'A thin pool in that group from which disks take their room as they are written. Empty: they take it whole.',
  ),
  images_rbd_pool: cephName
    .default('vms')
    .describe('The Ceph pool for disks, with `images_type = "rbd"`. It exists, and is there for block devices.'),
  images_rbd_ceph_conf: cephConf.describe(
    'Where the cluster is, and in which keyring the key of `rbd_user` lies: see ceph.conf(5).',
  ),
  rbd_user: cephName
    .default('nova')
    .describe('As whom the service and its guests come to the cluster, without `client.`. Its rights: `profile rbd`.'),
  rbd_secret_uuid: secretUuid.describe(
    'A libvirt secret in which you keep that key for guests. Empty: it is read from the keyring when a guest needs it.',
  ),
  volume_clear: z
    .enum(['zero', 'shred', 'none'])
    .default('zero')
    .describe(
      'What is done to a logical volume before it is removed: zeros over it, three rounds of noise, or nothing. Not in a ' +
        'thin pool, which clears what it gives out.',
    ),
  volume_clear_size: z.number().int().min(0).default(0).describe('MiB at its start that this is done to. 0: all.'),
  volume_clear_encrypted: z
    .boolean()
    .default(false)
    .describe('Do it to encrypted disks too. They are unreadable without it, and deleted in no time.'),
  luks_engine: z
    .enum(['qemu', 'dm-crypt'])
    .default('qemu')
    .describe('Who decrypts disks of format `luks` on logical volumes: QEMU, or the kernel.'),
  lock_on_pause: z
    .boolean()
    .default(false)
    .describe(
      'While a server is paused, the kernel forgets the keys of its disks. Servers with disks that QEMU decrypts cannot be ' +
        'paused then.',
    ),
  no_read_workqueue: z.boolean().default(false).describe('dm-crypt decrypts at once instead of in a queue.'),
  no_write_workqueue: z.boolean().default(false).describe('dm-crypt encrypts at once instead of in a queue.'),
});

const encryption = z.strictObject({
  enabled: z
    .boolean()
    .default(false)
    .describe(
      'Deprecated. Disks of servers whose flavor and image say nothing of encryption are encrypted too, in format `plain`. ' +
        'With `images_type = "lvm"` only.',
    ),
  default_format: z
    .enum(encryptionFormats)
    .default('luks')
    .describe(
      'Format of an encrypted disk when neither flavor nor image names one. Only `luks` unless `images_type = "lvm"`.',
    ),
  cipher: z
    .string()
    .regex(/^[a-z0-9]+-[a-z0-9]+-[a-z0-9]+$/, 'must be a cipher as dm-crypt names it, such as aes-xts-plain64')
    .default('aes-xts-plain64')
    .describe('Cipher of new disks of format `plain`. Each disk keeps the one it was made with.'),
  key_size: z
    .union([z.literal(256), z.literal(512)])
    .default(512)
    .describe('Bits of the key of that cipher; 512 is AES-256 in XTS mode. Each disk keeps the one it was made with.'),
});

const backup = z.strictObject({
  backup_driver: z
    .enum(['posix', 's3'])
    .default('posix')
    .describe(
      'Where backups of volumes are kept: in a directory, or in an object store that speaks S3. Backups made in one are not found in the other.',
    ),
  backup_posix_path: z
    .string()
    .regex(/^(\/.*)?$/, 'must be an absolute path')
    .default('')
    .describe('Their directory with `posix`, such as a mounted share. Empty: in the data directory.'),
  backup_s3_endpoint_url: z
    .string()
    .regex(/^(https?:\/\/[^\s]+)?$/, 'must be a URL')
    .default('')
    .describe('The address of the object store, with `s3`.'),
  backup_s3_store_bucket: z
    .string()
    .regex(/^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$/, 'must be the name of a bucket')
    .default('volumebackups')
    .describe('The bucket for backups. It exists; nothing but backups lies in it.'),
  backup_s3_region: z
    .string()
    .regex(/^[a-zA-Z0-9-]+$/, 'must be the name of a region')
    .default('us-east-1')
    .describe('The region that requests are signed for. Most stores of one’s own take the default.'),
  backup_s3_store_access_key: z.string().default('').describe('The access key.'),
  backup_s3_store_secret_key_file: z
    .string()
    .regex(/^(\/.*)?$/, 'must be an absolute path')
    .default('')
    .describe(
      'A file of mode 0600 with its secret key. The systemd credential `nightlatch-backup-s3-secret-key` goes before it.',
    ),
  backup_s3_ca_cert_file: z
    .string()
    .regex(/^(\/.*)?$/, 'must be an absolute path')
    .default('')
    .describe('Certificates to trust beside the usual ones, PEM. Empty: none.'),
  backup_s3_timeout: z
    .number()
    .int()
    .min(1)
    .default(60)
    .describe('Seconds within which the store must take a connection, and answer.'),
  backup_s3_retry_max_attempts: z
    .number()
    .int()
    .min(1)
    .default(4)
    .describe('How often a request is sent, when there is no answer or one that may change.'),
});

const privilege = z.strictObject({
  helper: z
    .string()
    .regex(/^(\/.*)?$/, 'must be an absolute path')
    .default('')
    .describe(
      'The socket of the root helper, for a service that does not run as root. Empty: the service does itself what needs root.',
    ),
});

const volumeBackend = z.strictObject({
  volume_driver: z.enum(storageFormats).default('raw').describe('How its volumes are stored.'),
  volume_backend_name: z
    .string()
    .regex(/^[^\s#]*$/, 'must have no space and no #')
    .default('')
    .describe('What volume types choose it by; several backends may share one. Empty: NAME.'),
  directory: z
    .string()
    .regex(/^(\/.*)?$/, 'must be an absolute path')
    .default('')
    .describe('Where its files lie. Empty: `volumes/NAME` in the data directory.'),
  volume_group: volumeGroupName.describe(
    'The LVM volume group for its volumes, with `volume_driver = "lvm"`. It exists; what else lies in it is left alone.',
  ),
  thin_pool: thinPoolName.describe('A thin pool in that group, as `images_thin_pool` in `[libvirt]`.'),
  rbd_pool: cephName
    .default('volumes')
    .describe(
      'The Ceph pool for its volumes, with `volume_driver = "rbd"`. It exists, and is there for block devices.',
    ),
  rbd_ceph_conf: cephConf.describe('As `images_rbd_ceph_conf` in `[libvirt]`.'),
  rbd_user: cephName.default('cinder').describe('As `rbd_user` in `[libvirt]`.'),
  rbd_secret_uuid: secretUuid.describe('As `rbd_secret_uuid` in `[libvirt]`.'),
  rbd_max_clone_depth: z
    .number()
    .int()
    .min(0)
    .default(5)
    .describe(
      'A copy shares what it holds with what it is a copy of, and that with what it is itself a copy of. When there would be more than so many below it, it gets data of its own. 0: always.',
    ),
});

const volumeBackends = z
  .record(
    z.string().regex(/^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$/, 'must be letters, digits, and _ . - between them'),
    volumeBackend.prefault({}),
  )
  .prefault({ files: {} })
  .describe(
    'A place on this host where volumes lie; as many as there are groups. When there is none, one of the name `files` with what is the default here.',
  );

const hostAgent = z.strictObject({
  listen: z
    .string()
    .regex(ADDRESS_AND_PORT, 'must be ADDRESS:PORT')
    .default('0.0.0.0:5090')
    .describe('Where `nightlatch host-agent` waits for the control plane, ADDRESS:PORT. Port 0 takes a free one.'),
  certificate: z
    .string()
    .default('/etc/nightlatch/host.crt')
    .describe('The certificate of this host, as `nightlatch host enroll` wrote it.'),
  key: z.string().default('/etc/nightlatch/host.key').describe('Its key.'),
  ca: z
    .string()
    .default('/etc/nightlatch/ca.crt')
    .describe('The certificate of the authority that signed it and the control plane’s.'),
});

const log = z.strictObject({
  level: z.enum(['debug', 'info', 'warn', 'error']).default('info').describe('The least urgent lines to log.'),
});

/** The configuration file. Groups and options have OpenStack's names where OpenStack has them; unknown ones are refused. */
export const configSchema = z.strictObject({
  DEFAULT: defaults.prefault({}),
  api: api.prefault({}),
  database: database.prefault({}),
  token: token.prefault({}),
  key_manager: keyManager.prefault({}),
  libvirt: libvirt.prefault({}),
  ephemeral_storage_encryption: encryption.prefault({}),
  volume_backends: volumeBackends,
  backup: backup.prefault({}),
  privilege: privilege.prefault({}),
  host_agent: hostAgent.prefault({}),
  log: log.prefault({}),
});

export type Config = z.output<typeof configSchema>;
export type VolumeBackendConfig = Config['volume_backends'][string];
