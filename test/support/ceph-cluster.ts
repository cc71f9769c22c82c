import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { join } from 'node:path';
import type { HostPath } from '#core/ids.ts';
import { GIB } from '#core/sizes.ts';
import { waitUntil } from '#test/support/wait.ts';

/** What the service comes as, with the rights that Ceph's documentation gives to OpenStack. */
const USER = 'nova';
const RIGHTS = ['mon', 'profile rbd', 'osd', 'profile rbd'];
/** Ceph's defaults. */
const FULL_RATIOS = [
  ['full', '0.95'],
  ['backfillfull', '0.9'],
  ['nearfull', '0.85'],
] as const;
const START_TIMEOUT_MS = 60_000;

export type Daemon = 'monitor' | 'osd';

/**
 * A Ceph cluster of one monitor and one OSD, whose bytes lie in memory, on this machine's loopback, with cephx. The daemons are
 * children of this process.
 */
export class CephCluster implements AsyncDisposable {
  readonly folder: string;
  readonly user = USER;
  readonly #daemons = new Map<Daemon, ChildProcess>();

  private constructor(folder: string) {
    this.folder = folder;
  }

  /** One with these pools, for block devices. */
  static async start(...pools: readonly string[]): Promise<CephCluster> {
    const cluster = new CephCluster(await mkdtemp('/var/tmp/nl-ceph-'));
    try {
      await cluster.#startMonitor();
      await cluster.#startOsd();
      for (const pool of pools) {
        cluster.ceph('osd', 'pool', 'create', pool, '8', '8', 'replicated');
        cluster.ceph('osd', 'pool', 'application', 'enable', pool, 'rbd');
      }
      cluster.ceph('auth', 'get-or-create', `client.${USER}`, ...RIGHTS, '-o', cluster.#keyring(`client.${USER}`));
    } catch (error) {
      await cluster[Symbol.asyncDispose]();
      throw error;
    }
    return cluster;
  }

  get conf(): HostPath {
    return join(this.folder, 'ceph.conf') as HostPath;
  }

  /** What the cluster's admin is told. */
  ceph(...args: string[]): string {
    return this.#tell('ceph', '--conf', this.conf, ...args);
  }

  /** What `rbd` tells the service's user. */
  rbd(...args: string[]): string {
    return this.#tell('rbd', '--conf', this.conf, '--id', USER, ...args);
  }

  /** While `work` runs, the cluster takes itself for full: what is written waits. */
  async whileFull<T>(pool: string, work: () => Promise<T>): Promise<T> {
    const filler = `${pool}/filler`;
    this.rbd('create', '--size', '64M', filler);
    this.rbd('bench', '--io-type', 'write', '--io-size', '4M', '--io-total', '64M', filler);
    // In an order in which none is ever above the next.
    for (const name of ['nearfull', 'backfillfull', 'full']) this.ceph('osd', `set-${name}-ratio`, '0.001');
    const isFull = async () => /,full,/.test(this.ceph('osd', 'dump'));
    await waitUntil('the cluster is full', isFull, START_TIMEOUT_MS);
    try {
      return await work();
    } finally {
      for (const [name, ratio] of FULL_RATIOS) this.ceph('osd', `set-${name}-ratio`, ratio);
      await waitUntil('the cluster has room', async () => !(await isFull()), START_TIMEOUT_MS);
      this.rbd('rm', '--no-progress', filler);
    }
  }

  /** The bytes of an image. */
  bytesOf(spec: string): Buffer {
    const args = ['--conf', this.conf, '--id', USER, 'export', '--no-progress', spec, '-'];
    return execFileSync('rbd', args, { maxBuffer: 2 ** 30, stdio: ['ignore', 'pipe', 'pipe'] });
  }

  /** While `work` runs, a daemon does nothing and answers nobody; what it was asked meanwhile it does afterwards. */
  async without<T>(daemon: Daemon, work: () => Promise<T>): Promise<T> {
    const child = this.#daemons.get(daemon);
    child?.kill('SIGSTOP');
    try {
      return await work();
    } finally {
      child?.kill('SIGCONT');
    }
  }

  /** While `work` runs, the service's user has other rights; as Ceph's documentation writes them. */
  async withRights<T>(rights: readonly string[], work: () => Promise<T>): Promise<T> {
    const set = (wanted: readonly string[]) => this.ceph('auth', 'caps', `client.${USER}`, ...wanted);
    set(rights);
    try {
      return await work();
    } finally {
      set(RIGHTS);
    }
  }

  async #startMonitor(): Promise<void> {
    for (const name of ['run', 'mon', 'osd']) await mkdir(join(this.folder, name));
    const id = randomUUID();
    const [v1, v2] = [await freePort(), await freePort()];
    const addresses = `[v2:127.0.0.1:${v2},v1:127.0.0.1:${v1}]`;
    await writeFile(this.conf, this.#config(id, addresses));
    const monitorRing = this.#keyring('mon.');
    const adminRing = this.#keyring('client.admin');
    const authtool = (...args: string[]) => this.#tell('ceph-authtool', ...args);
    authtool('--create-keyring', monitorRing, '--gen-key', '-n', 'mon.', '--cap', 'mon', 'allow *');
    const all = ['mon', 'osd', 'mgr'].flatMap((kind) => ['--cap', kind, 'allow *']);
    authtool('--create-keyring', adminRing, '--gen-key', '-n', 'client.admin', ...all);
    authtool(monitorRing, '--import-keyring', adminRing);
    const map = join(this.folder, 'monmap');
    this.#tell('monmaptool', '--create', '--clobber', '--fsid', id, '--addv', 'a', addresses, map);
    this.#tell('ceph-mon', '--conf', this.conf, '--mkfs', '-i', 'a', '--monmap', map, '--keyring', monitorRing);
    this.#spawn('monitor', 'ceph-mon', '-i', 'a');
  }

  async #startOsd(): Promise<void> {
    const uuid = randomUUID();
    const secrets = join(this.folder, 'osd.json');
    const key = this.#tell('ceph-authtool', '--gen-print-key').trim();
    await writeFile(secrets, JSON.stringify({ cephx_secret: key }), { mode: 0o600 });
    const id = this.ceph('osd', 'new', uuid, '-i', secrets).trim();
    await rm(secrets);
    const ring = `[osd.${id}]\n\tkey = ${key}\n`;
    await writeFile(this.#keyring(`osd.${id}`), ring, { mode: 0o600 });
    this.#tell('ceph-osd', '--conf', this.conf, '-i', id, '--mkfs', '--osd-uuid', uuid);
    this.#spawn('osd', 'ceph-osd', '-i', id);
    await waitUntil('the OSD is up', async () => this.ceph('osd', 'stat').includes('1 up'), START_TIMEOUT_MS);
  }

  #spawn(daemon: Daemon, program: string, ...args: string[]): void {
    const options = ['--conf', this.conf, '--foreground', '--setuser', 'root', '--setgroup', 'root'];
    this.#daemons.set(daemon, spawn(program, [...options, ...args], { stdio: 'ignore' }));
  }

  #tell(program: string, ...args: string[]): string {
    return execFileSync(program, args, {
      encoding: 'utf8',
      timeout: START_TIMEOUT_MS,
      stdio: ['ignore', 'pipe', 'pipe'],
    });
  }

  #keyring(name: string): string {
    return join(this.folder, `${name}.keyring`);
  }

  #config(id: string, addresses: string): string {
    const { folder } = this;
    return `[global]
fsid = ${id}
mon host = ${addresses}
public addr = 127.0.0.1
cluster addr = 127.0.0.1
auth cluster required = cephx
auth service required = cephx
auth client required = cephx
keyring = ${folder}/$name.keyring
run dir = ${folder}/run
log file = ${folder}/$name.log
osd pool default size = 1
osd pool default min size = 1
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
osd class load list = *
osd class default list = *
mon allow pool size one = true
[mon]
admin socket = ${folder}/run/mon.asok
mon data = ${folder}/mon
mon data avail crit = 1
paxos propose interval = 0.05
paxos min wait = 0.01
[osd]
admin socket = ${folder}/run/osd.asok
osd data = ${folder}/osd
osd objectstore = memstore
memstore device bytes = ${8 * GIB}
`;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const child of [...this.#daemons.values()].reverse()) {
      if (child.exitCode !== null || child.signalCode !== null) continue;
      child.kill('SIGKILL');
      await once(child, 'exit');
    }
    await rm(this.folder, { recursive: true, force: true });
  }
}

/** A port of the loopback that nobody has now. */
async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as { port: number };
  server.close();
  await once(server, 'close');
  return port;
}
