import { access } from 'node:fs/promises';
import { volumeGroupsOf } from '#config/disk-places.ts';
import type { Config } from '#config/schema.ts';
import { describeError } from '#core/errors.ts';
import type { HostName, HostPath } from '#core/ids.ts';
import { Mappings } from '#host/encryption/dm-crypt/mappings.ts';
import { FuseExports } from '#host/fuse-exports.ts';
import { Gate } from '#host/gate.ts';
import { grantPrivilege } from '#host/grant.ts';
import { LibvirtHypervisor } from '#host/hypervisor/libvirt/driver.ts';
import { PrivateLibvirt } from '#host/hypervisor/libvirt/private-daemon.ts';
import { findOpen, type LockDownParts, lockEverything, openKinds } from '#host/lock-down.ts';
import { closeLeases, liveLeases } from '#keys/leases.ts';
import { poolNames } from '#main/ceph-pools.ts';
import { backendDirectories } from '#main/local-backends.ts';
import { privilegeOf } from '#main/local-host.ts';
import { endServiceProcess } from '#main/service-process.ts';
import { openState } from '#main/state.ts';
import { type StatePaths, statePaths } from '#main/state-paths.ts';

/** One thing that was looked up, and what was found of it that should not be there. */
export type ProofLine = { readonly what: string; readonly found: readonly string[] | Error };

const REQUEST = 'req-nightlatch-host-lock';
const LIBVIRT_PATIENCE_MS = 10_000;

/**
 * Locks this machine without the service: the service is killed if it still runs, and a private libvirt with it, so that
 * nothing can start another guest; then guests and disks as everywhere. The host stays closed until the next start of
 * the service has settled the servers.
 *
 * *Throws* host-not-locked.
 */
export async function lockThisHost(config: Config, tell: (line: string) => void): Promise<void> {
  const paths = statePaths(config.DEFAULT.state_path);
  const host = config.DEFAULT.host as HostName;
  await new Gate(host, paths.lockDown).close();
  if (await endServiceProcess(paths)) tell('the service was killed; its next start goes on from here');
  if (config.libvirt.connection_uri === '') await PrivateLibvirt.endLeftOver(privateLibvirt(paths));
  tell('ending every guest, locking every disk');
  await withParts(config, paths, (parts) => lockEverything(host, parts, () => 0));
  if (!(await hasDatabase(config, paths))) {
    return tell('no guest runs, no disk is unlocked; its control plane closes the leases when it can reach it');
  }
  tell('no guest runs, no disk is unlocked; closing leases');
  await using state = await openState(config, 'visit');
  const open = (await liveLeases(state.db)).filter((lease) => lease.host === host).map((lease) => lease.disk_id);
  await state.db.transaction().execute((tx) => closeLeases(tx, open, REQUEST));
}

/** Looks up, from outside of the service, all that must not be there once this host is locked. */
export async function proveLocked(config: Config): Promise<ProofLine[]> {
  const paths = statePaths(config.DEFAULT.state_path);
  const found = await withParts(config, paths, findOpen);
  if (!(await hasDatabase(config, paths))) return openKinds.map((what) => ({ what, found: found[what] }));
  const leases = await openLeases(config).catch((error: unknown) => new Error(describeError(error)));
  return [...openKinds.map((what) => ({ what, found: found[what] })), { what: 'live leases', found: leases }];
}

/** A machine on which only the agent runs has none; leases are the control plane's. */
async function hasDatabase(config: Config, paths: StatePaths): Promise<boolean> {
  if (config.database.connection !== '') return true;
  return access(paths.database).then(
    () => true,
    () => false,
  );
}

async function openLeases(config: Config): Promise<string[]> {
  await using state = await openState(config, 'visit');
  const here = (await liveLeases(state.db)).filter((lease) => lease.host === config.DEFAULT.host);
  return here.map((lease) => `${lease.id} of disk ${lease.disk_id}`);
}

async function withParts<T>(config: Config, paths: StatePaths, use: (parts: LockDownParts) => Promise<T>): Promise<T> {
  const { groups: volumeGroups } = volumeGroupsOf(config);
  const pools = poolNames(config);
  // By ourselves: the root helper may be down too.
  const { helper: _, ...bounds } = privilegeOf(config);
  grantPrivilege(bounds);
  await using undo = new AsyncDisposableStack();
  const opened = await openHypervisor(config, paths);
  return await use({
    places: { disksDirectory: paths.disks, backendDirectories: backendDirectories(config, paths), volumeGroups, pools },
    hypervisor: opened instanceof LibvirtHypervisor ? undo.use(opened) : opened,
    exports: new FuseExports({ runDirectory: paths.run }),
    mappings: volumeGroups.length === 0 ? null : new Mappings(),
  });
}

/** Null: our own libvirt does not run. One that does not answer keeps what nobody can look up. */
async function openHypervisor(config: Config, paths: StatePaths): Promise<LockDownParts['hypervisor']> {
  const uri = config.libvirt.connection_uri;
  const own = privateLibvirt(paths);
  if (uri === '' && !(await PrivateLibvirt.runs(own))) return null;
  const address = uri === '' ? PrivateLibvirt.addressIn(own) : { uri, libvirtdPidFile: '' as HostPath };
  try {
    return await LibvirtHypervisor.open({
      ...address,
      runDirectory: paths.run,
      virtType: 'qemu',
      connectTimeoutMs: LIBVIRT_PATIENCE_MS,
    });
  } catch (error) {
    const silent = async () => Promise.reject(error);
    return { domains: silent, destroy: silent, secrets: silent, forgetSecrets: silent };
  }
}

function privateLibvirt(paths: StatePaths) {
  return { runDirectory: paths.run, cacheDirectory: paths.libvirtCache, onTrouble: () => {} };
}
