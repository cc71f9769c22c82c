import { NightlatchError } from '#core/errors.ts';
import type { HostName, ServerId } from '#core/ids.ts';
import type { Queryable } from '#db/database.ts';
import { type Host, hostUse, isUp, listHosts, lockPlacement } from '#db/hosts.ts';
import { type Candidate, chooseHost, type Demand } from '#placement/choose-host.ts';

/**
 * Chooses a host that is up, with room for all of `demand`. `placed`: the room is for this server and must be on this host; CPUs
 * and memory that it has there are asked for again, its disks are not. For a transaction that also writes down what takes the room:
 * until it ends nobody else is given any.
 * *Throws* no-valid-host.
 */
export async function findRoom(
  tx: Queryable,
  demand: Demand,
  placed: { readonly id: ServerId; readonly host: HostName } | null = null,
): Promise<Host> {
  await lockPlacement(tx);
  const hosts = (await listHosts(tx)).filter((host) => isUp(host) && (placed === null || host.name === placed.host));
  const choice = chooseHost(await Promise.all(hosts.map((host) => candidate(tx, host, placed?.id ?? null))), demand);
  if (choice.host === null) throw new NightlatchError('no-valid-host', { reason: choice.reason });
  const host = hosts.find(({ name }) => name === choice.host);
  if (!host) throw new Error(`host ${choice.host} vanished while it was chosen`);
  return host;
}

async function candidate(tx: Queryable, host: Host, except: ServerId | null): Promise<Candidate> {
  return {
    name: host.name,
    traits: host.traits,
    vcpus: host.vcpus,
    memoryMib: host.memory_mib,
    diskGib: host.disk_gib,
    used: await hostUse(tx, host.name, except),
  };
}
