import { mkdir } from 'node:fs/promises';
import type { Logger } from 'pino';
import { volumeGroupsOf } from '#config/disk-places.ts';
import type { Config } from '#config/schema.ts';
import { describeError } from '#core/errors.ts';
import type { HostName, HostPath } from '#core/ids.ts';
import { LocalHostAgent } from '#host/agent.ts';
import { Gate } from '#host/gate.ts';
import { type Grant, grantPrivilege } from '#host/grant.ts';
import { LibvirtHypervisor } from '#host/hypervisor/libvirt/driver.ts';
import { PrivateLibvirt } from '#host/hypervisor/libvirt/private-daemon.ts';
import { chooseVirtType } from '#host/hypervisor/libvirt/probe-kvm.ts';
import { ImageCache } from '#host/image-cache.ts';
import { prepareRunDirectory, releaseRunDirectory } from '#host/run-directory.ts';
import { backendDirectories } from '#main/local-backends.ts';
import { openLocalStorage } from '#main/local-storage.ts';
import { type StatePaths, statePaths } from '#main/state-paths.ts';

/** This machine as a compute host. Disposing lets guests run on; what nothing needs any more is stopped. */
export type LocalHost = AsyncDisposable & { readonly agent: LocalHostAgent };

/** pid file of a libvirtd that systemd started; `[libvirt] connection_uri` speaks of that one. */
const SYSTEM_LIBVIRTD_PID_FILE = '/run/libvirtd.pid';

/** Starts, or finds again, all that a compute host needs. @throws what its parts throw. */
export async function openLocalHost(config: Config, paths: StatePaths, log: Logger): Promise<LocalHost> {
  await using undo = new AsyncDisposableStack();
  for (const folder of [paths.disks, paths.storageCache]) await mkdir(folder, { recursive: true, mode: 0o700 });
  warnOfLegacySwitch(config, log);
  grantPrivilege(privilegeOf(config));
  const storage = await openLocalStorage(config, paths);
  await prepareRunDirectory(paths.run);
  const libvirt = await openLibvirt(config, paths, log);
  if (libvirt.daemon) undo.use(libvirt.daemon);
  const { virtType, reason } = await chooseVirtType(config.libvirt.virt_type, { runDirectory: paths.run });
  log.info({ virtType }, `guests run under ${virtType}: ${reason}`);
  const hypervisor = undo.use(await LibvirtHypervisor.open({ ...libvirt.address, runDirectory: paths.run, virtType }));
  const name = config.DEFAULT.host as HostName;
  const agent = new LocalHostAgent({
    name,
    virtType,
    storage: config.libvirt.images_type,
    defaultEncryptionFormat: config.ephemeral_storage_encryption.default_format,
    // As upstream's old switch did: dm-crypt plain, but with a key for each disk.
    undecidedEncryptionFormat: config.ephemeral_storage_encryption.enabled ? 'plain' : null,
    disksDirectory: paths.disks,
    runDirectory: paths.run,
    lockOnPause: config.libvirt.lock_on_pause,
    ...storage,
    images: new ImageCache(paths.imageCache),
    hypervisor,
    gate: new Gate(name, paths.lockDown),
    storageSettings: JSON.stringify([config.libvirt, config.ephemeral_storage_encryption, config.volume_backends]),
  });
  const owned = undo.move();
  const close = async () => {
    const guests = await hypervisor.domains().catch(() => null);
    await owned.disposeAsync();
    // With guests running, or when that is not known, libvirt and the run directory stay for the next start to adopt.
    if (guests === null || guests.length > 0 || !libvirt.daemon) return;
    await libvirt.daemon.stop();
    await releaseRunDirectory(paths.run);
  };
  return { agent, [Symbol.asyncDispose]: close };
}

async function openLibvirt(config: Config, paths: StatePaths, log: Logger) {
  const uri = config.libvirt.connection_uri;
  if (uri !== '')
    return { daemon: null, address: { uri, libvirtdPidFile: SYSTEM_LIBVIRTD_PID_FILE as StatePaths['run'] } };
  const daemon = await PrivateLibvirt.start({
    runDirectory: paths.run,
    cacheDirectory: paths.libvirtCache,
    onTrouble: (error) => log.error({ err: error }, `trouble with the private libvirt: ${describeError(error)}`),
  });
  return { daemon, address: { uri: daemon.uri, libvirtdPidFile: daemon.libvirtdPidFile } };
}

function warnOfLegacySwitch({ ephemeral_storage_encryption: { enabled } }: Config, log: Logger): void {
  if (!enabled) return;
  log.warn(
    '[ephemeral_storage_encryption] enabled is deprecated: it encrypts what nobody decided about, on this host alone. ' +
      'Set hw:ephemeral_encryption on flavors, or hw_ephemeral_encryption on images, instead.',
  );
}

/** What privileged commands may touch on a host with this configuration, and nothing more. */
export function privilegeOf(config: Config): Grant {
  const {
    DEFAULT: { state_path },
    privilege,
  } = config;
  const { groups, thinPools } = volumeGroupsOf(config);
  return {
    directories: [state_path, ...backendDirectories(config, statePaths(state_path))],
    volumeGroups: groups,
    thinPools,
    ...(privilege.helper === '' ? {} : { helper: privilege.helper as HostPath }),
  };
}
