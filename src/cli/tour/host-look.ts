import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Evidence } from '#cli/tour/narrator.ts';
import type { HostPath } from '#core/ids.ts';
import type { Database } from '#db/database.ts';
import { run } from '#host/exec.ts';
import { findExportProcesses } from '#host/fuse-process.ts';
import { parseMountInfo } from '#host/mount-info.ts';
import { runPaths } from '#host/run-directory.ts';
import { liveLeases } from '#keys/leases.ts';

/** Everything on a host that can hold a server's keys, or does. All of it is empty when the server is locked. */
export type HostLook = {
  /** QEMU processes, from /proc. */
  readonly qemu: readonly number[];
  /** Usages of libvirt secrets, from virsh. */
  readonly secrets: readonly string[];
  /** libvirt domains, from virsh. */
  readonly domains: readonly string[];
  /** Unlocked disks: FUSE mounts, and the processes behind them. */
  readonly unlocked: readonly string[];
  /** Reasons of live leases, from the database. */
  readonly leases: readonly string[];
};

/** Looks at one server's host from outside: by /proc, virsh and the database, not by asking the service. */
export class HostObserver {
  readonly #db: Database;
  readonly #run: HostPath;
  readonly #libvirt: string;

  constructor(db: Database, runDirectory: HostPath) {
    this.#db = db;
    this.#run = runDirectory;
    const socket = join(runPaths(runDirectory).libvirt, 'run/libvirt-sock');
    this.#libvirt = `qemu+unix:///system?socket=${encodeURIComponent(socket)}`;
  }

  async look(serverId: string): Promise<HostLook> {
    const [qemu, secrets, domains, unlocked, leases] = await Promise.all([
      findGuests(serverId),
      this.#virsh('secret-list', '--ephemeral'),
      this.#virsh('list', '--uuid'),
      this.#unlocked(serverId),
      this.leases(serverId),
    ]);
    return {
      ...{ qemu, unlocked, leases },
      secrets: secrets.filter((line) => line.includes(serverId)),
      domains: domains.filter((line) => line.includes(serverId)),
    };
  }

  /** Reasons of the live leases on a server's disks, those already destroyed among them. */
  async leases(serverId: string): Promise<string[]> {
    const disks = await this.#diskIds(serverId);
    return (await liveLeases(this.#db)).filter((lease) => disks.has(lease.disk_id)).map((lease) => lease.reason);
  }

  async #unlocked(serverId: string): Promise<string[]> {
    const disks = await this.#diskIds(serverId);
    const folder = runPaths(this.#run).unlocked;
    const mounts = parseMountInfo(await readFile('/proc/self/mountinfo', 'utf8')).map(({ path }) => path);
    const processes = (await findExportProcesses(folder)).map(({ mountpoint }) => mountpoint);
    return [...mounts, ...processes].filter((path) => path.startsWith(folder) && namesOne(path, disks));
  }

  async #diskIds(serverId: string): Promise<ReadonlySet<string>> {
    const rows = await this.#db.selectFrom('disks').select(['id', 'owner_id']).execute();
    return new Set(rows.filter((row) => row.owner_id === serverId).map((row) => row.id));
  }

  /** Lines that virsh prints, without its table's head. */
  async #virsh(...command: readonly string[]): Promise<string[]> {
    const { stdout } = await run('virsh', ['--quiet', '--connect', this.#libvirt, ...command], {
      doing: `Asking libvirt by virsh ${command[0]}`,
    });
    return stdout.split('\n').filter((line) => line.trim() !== '');
  }
}

function namesOne(path: string, disks: ReadonlySet<string>): boolean {
  return [...disks].some((id) => path.includes(id));
}

/** Processes of QEMU whose command line holds `text`, such as a server's id; ended ones have none. */
export async function findGuests(text: string): Promise<number[]> {
  const pids = (await readdir('/proc')).filter((name) => /^\d+$/.test(name)).map(Number);
  const lines = await Promise.all(pids.map((pid) => readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '')));
  return pids.filter((_, i) => /^[^\0]*qemu-system/.test(lines[i] ?? '') && lines[i]?.includes(text));
}

/** What is still open of a server that should be locked; empty: it is locked. */
export function leftOpen(look: HostLook): string[] {
  return Object.entries(look).flatMap(([what, found]: [string, readonly unknown[]]) =>
    found.length === 0 ? [] : [`${what}: ${found.join(', ')}`],
  );
}

/** Evidence that a server is locked, for a look that found nothing. */
export function lockedEvidence(when: string, leasesBefore: number): Evidence[] {
  return [
    { lookedAt: '/proc, virsh list, mounts', found: 'no QEMU process, no domain, no unlocked disk' },
    {
      lookedAt: 'virsh secret-list, leases',
      found: `no secret, no lease (${leasesBefore} while it ran)`,
      promise: `No key without a lease: ${when}`,
    },
  ];
}
