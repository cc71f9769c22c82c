import { setTimeout as sleep } from 'node:timers/promises';
import type { Logger } from 'pino';
import { splitAddress } from '#core/address.ts';
import { describeError, NightlatchError } from '#core/errors.ts';
import type { HostName } from '#core/ids.ts';
import type { Database } from '#db/database.ts';
import { type Host, type HostReport, listHosts, markLost, markSeen, saveHost, updateHost } from '#db/hosts.ts';
import type { HostAgent, HostFacts } from '#host/host-agent.ts';
import { Authority } from '#host/remote/certificates.ts';
import type { Credentials } from '#host/remote/peer.ts';
import { RemoteHost } from '#host/remote/remote-host.ts';

type Parts = {
  readonly db: Database;
  /** Folder of the authority that signs hosts' certificates. */
  readonly authority: string;
  readonly log: Logger;
};

/** Told of each enrolled host when it becomes known; what it returns is called when the host is removed. */
type Follow = (name: HostName, agent: HostAgent) => () => void;
type Enrolled = { readonly row: Host; readonly remote: RemoteHost; unfollow: () => void };

/** A host that was enrolled or removed meanwhile is noticed after this time at the latest. */
const LOOK_INTERVAL_MS = 3000;
/** How long a start waits for hosts to answer; those that come later are welcome then. */
const START_PATIENCE_MS = 5000;

/** All hosts that guests run on: this machine, when it is one, and every enrolled one, each with its connection. */
export class Hosts implements AsyncDisposable {
  readonly #parts: Parts;
  /** Connected, and what they are is written down: only then are they shown as up. */
  readonly #reported = new WeakSet<RemoteHost>();
  readonly #enrolled = new Map<HostName, Enrolled>();
  readonly #closing = new AbortController();
  #local: { readonly name: HostName; readonly agent: HostAgent } | null = null;
  #follow: Follow = () => () => {};
  #loop: Promise<void> = Promise.resolve();
  #credentials: Credentials | null = null;

  constructor(parts: Parts) {
    this.#parts = parts;
  }

  /** Makes this machine a host. @throws conflict when another machine is enrolled under its name. */
  async addLocal(name: HostName, agent: HostAgent): Promise<HostFacts> {
    const row = (await listHosts(this.#parts.db)).find((host) => host.name === name);
    if (row && row.address !== null) {
      const reason = `Starting the service failed: another machine is enrolled as host ${name}. Set another name by "host" in [DEFAULT].`;
      throw new NightlatchError('conflict', { reason });
    }
    this.#local = { name, agent };
    const facts = await this.#describe(name, agent);
    await saveHost(this.#parts.db, reportOf(name, facts));
    return facts;
  }

  /** Begins to connect to every enrolled host, and waits a moment for them. */
  async connect(): Promise<void> {
    await this.#look();
    await Promise.all([...this.#enrolled.values()].map(({ remote }) => remote.whenUp(START_PATIENCE_MS)));
    this.#loop = this.#keepLooking();
  }

  /** From now on every enrolled host is followed, also those enrolled later. */
  follow(follow: Follow): void {
    this.#follow = follow;
    for (const [name, enrolled] of this.#enrolled) enrolled.unfollow = follow(name, enrolled.remote.agent);
  }

  /** The enrolled hosts that can be asked now. */
  connected(): { readonly name: HostName; readonly agent: HostAgent }[] {
    const up = [...this.#enrolled].filter(([, { remote }]) => remote.isUp);
    return up.map(([name, { remote }]) => ({ name, agent: remote.agent }));
  }

  /** @throws host-unavailable when no host has this name. */
  agent(name: HostName): HostAgent {
    if (this.#local?.name === name) return this.#local.agent;
    const enrolled = this.#enrolled.get(name);
    if (enrolled) return enrolled.remote.agent;
    const reason = 'no host is enrolled under this name';
    throw new NightlatchError('host-unavailable', { host: name, doing: 'do anything', reason });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closing.abort();
    await this.#loop;
    for (const name of this.#enrolled.keys()) await this.#drop(name);
  }

  async #keepLooking(): Promise<void> {
    const { db, log } = this.#parts;
    const { signal } = this.#closing;
    while (!signal.aborted) {
      try {
        await this.#look();
        const shown = [...this.#enrolled].filter(([, { remote }]) => this.#reported.has(remote));
        await markSeen(db, [...(this.#local ? [this.#local.name] : []), ...shown.map(([name]) => name)]);
      } catch (error) {
        log.warn({ err: error }, `looking for enrolled hosts failed: ${describeError(error)}`);
      }
      await sleep(LOOK_INTERVAL_MS, undefined, { signal }).catch(() => {});
    }
  }

  async #look(): Promise<void> {
    const rows = (await listHosts(this.#parts.db)).filter(({ address }) => address !== null);
    for (const [name, { row }] of this.#enrolled) {
      const isSame = (other: Host) =>
        other.name === name && other.certificate === row.certificate && other.address === row.address;
      if (!rows.some(isSame)) await this.#drop(name);
    }
    for (const row of rows) if (!this.#enrolled.has(row.name)) await this.#add(row);
  }

  async #add(row: Host): Promise<void> {
    const { name, address, certificate } = row;
    if (address === null || certificate === null) return;
    this.#credentials ??= await (await Authority.open(this.#parts.authority)).credentials();
    const remote: RemoteHost = new RemoteHost({
      host: { name, ...splitAddress(address), fingerprint: certificate },
      credentials: this.#credentials,
      onChange: (trouble) => this.#changed(name, remote, trouble),
    });
    this.#enrolled.set(name, { row, remote, unfollow: this.#follow(name, remote.agent) });
  }

  async #drop(name: HostName): Promise<void> {
    const enrolled = this.#enrolled.get(name);
    this.#enrolled.delete(name);
    enrolled?.unfollow();
    await enrolled?.remote[Symbol.asyncDispose]();
  }

  async #describe(name: HostName, agent: HostAgent): Promise<HostFacts> {
    const facts = await agent.describe();
    for (const problem of facts.problems) this.#parts.log.warn({ host: name }, problem);
    return facts;
  }

  #changed(name: HostName, remote: RemoteHost, trouble: string | null): void {
    const { db, log } = this.#parts;
    if (trouble === null) log.info({ host: name }, `host ${name} is up`);
    else log.warn({ host: name }, `host ${name} is down: ${trouble}`);
    const write = async () => {
      this.#reported.delete(remote);
      if (trouble !== null) return await markLost(db, name);
      await updateHost(db, reportOf(name, await this.#describe(name, remote.agent)));
      if (remote.isUp) this.#reported.add(remote);
    };
    write().catch((error: unknown) =>
      log.error({ host: name, err: error }, `writing down how host ${name} is failed: ${describeError(error)}`),
    );
  }
}

function reportOf(name: HostName, facts: HostFacts): HostReport {
  return {
    name,
    traits: [...facts.traits],
    vcpus: facts.vcpus,
    memory_mib: facts.memoryMib,
    disk_gib: facts.diskGib,
    virt_type: facts.virtType,
    storage: facts.storage,
    default_encryption_format: facts.defaultEncryptionFormat,
    undecided_encryption_format: facts.undecidedEncryptionFormat,
    // An agent of an earlier version reports none.
    volume_backends: facts.volumeBackends ?? [],
    seen_at: new Date(),
  };
}
