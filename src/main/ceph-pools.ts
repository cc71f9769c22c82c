import type { Config, VolumeBackendConfig } from '#config/schema.ts';
import type { HostPath } from '#core/ids.ts';
import type { Pool } from '#host/storage/rbd/images.ts';

/** The pool of servers' disks, with `images_type = "rbd"`. */
export function serverPool({ libvirt }: Config): Pool {
  const { images_rbd_pool: name, images_rbd_ceph_conf: conf, rbd_user: user, rbd_secret_uuid: secretUuid } = libvirt;
  return poolOf({ name, conf, user, secretUuid });
}

/** The pool of a backend, with `volume_driver = "rbd"`. */
export function backendPool(own: VolumeBackendConfig): Pool {
  const { rbd_pool: name, rbd_ceph_conf: conf, rbd_user: user, rbd_secret_uuid: secretUuid } = own;
  return poolOf({ name, conf, user, secretUuid });
}

/** All that a configuration needs. */
export function poolsNeeded(config: Config): Pool[] {
  const backends = Object.values(config.volume_backends).filter(({ volume_driver }) => volume_driver === 'rbd');
  return [...(config.libvirt.images_type === 'rbd' ? [serverPool(config)] : []), ...backends.map(backendPool)];
}

/** Their names, each once. */
export function poolNames(config: Config): string[] {
  return [...new Set(poolsNeeded(config).map(({ name }) => name))];
}

/** `secretUuid`: none when empty. */
function poolOf({ name, conf, user, secretUuid }: Record<keyof Pool, string>): Pool {
  return { name, conf: conf as HostPath, user, ...(secretUuid === '' ? {} : { secretUuid }) };
}
