import { resolve } from 'node:path';
import { fail, type OutputFormat, printRows, say } from '#cli/ui.ts';
import { loadConfig } from '#config/load.ts';
import { ADDRESS_AND_PORT } from '#core/address.ts';
import type { HostName } from '#core/ids.ts';
import { enrollHost, isUp, listHosts, removeHost } from '#db/hosts.ts';
import { Authority } from '#host/remote/certificates.ts';
import { HOST_NAME } from '#host/remote/peer.ts';
import { openState } from '#main/state.ts';

/** Prints the hosts and what they can do. */
export async function listHostsCommand(options: { config?: string; format: OutputFormat }): Promise<number> {
  await using state = await openState(await loadConfig(options.config ?? null), 'visit');
  const rows = (await listHosts(state.db)).map((host) => ({
    host: host.name,
    state: isUp(host) ? 'up' : 'down',
    address: host.address ?? 'this machine',
    vcpus: host.vcpus,
    'memory (MiB)': host.memory_mib,
    'disk (GiB)': host.disk_gib,
    'runs under': host.virt_type,
    'disks as': host.storage,
    traits: host.traits.join(' '),
    seen: host.seen_at.toISOString(),
  }));
  const columns = [
    'host',
    'state',
    'address',
    'vcpus',
    'memory (MiB)',
    'disk (GiB)',
    'runs under',
    'disks as',
    'traits',
    'seen',
  ];
  printRows(rows, columns, options.format);
  return 0;
}

/** Makes the files that let another machine be a host, and makes it known. A service that runs connects to it by itself. */
export async function enrollHostCommand(
  name: string,
  options: { config?: string; address: string; out: string },
): Promise<number> {
  if (!HOST_NAME.test(name)) {
    fail(`'${name}' is no name for a host.`, ['Use letters, digits, dots and hyphens, 64 at most.']);
    return 2;
  }
  if (!ADDRESS_AND_PORT.test(options.address)) {
    fail(`--address is '${options.address}', which is not ADDRESS:PORT.`);
    return 2;
  }
  await using state = await openState(await loadConfig(options.config ?? null), 'visit');
  const folder = resolve(options.out);
  const authority = await Authority.open(state.paths.authority);
  const certificate = await authority.enroll(name, folder);
  await enrollHost(state.db, { name: name as HostName, address: options.address, certificate });
  say(`host ${name} is enrolled at ${options.address}; what it needs is in ${folder}: host.crt, host.key, ca.crt`);
  say('bring them to /etc/nightlatch/ of that machine, host.key readable by root alone, then remove them here,');
  say(`and start there, with host = "${name}" under [DEFAULT]: nightlatch host-agent`);
  return 0;
}

/** Forgets a host; refused while servers are there. */
export async function removeHostCommand(name: string, options: { config?: string }): Promise<number> {
  const config = await loadConfig(options.config ?? null);
  if (config.DEFAULT.local_host && name === config.DEFAULT.host) {
    fail(`host ${name} is this machine, which the service uses.`, ['Set local_host = false in [DEFAULT] first.']);
    return 1;
  }
  await using state = await openState(config, 'visit');
  await removeHost(state.db, name as HostName);
  say(`host ${name} is removed`);
  return 0;
}
