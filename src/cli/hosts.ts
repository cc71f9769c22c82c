import { type OutputFormat, printRows } from '#cli/ui.ts';
import { loadConfig } from '#config/load.ts';
import { listHosts } from '#db/hosts.ts';
import { openState } from '#main/state.ts';

/** Prints the hosts and what they can do. */
export async function listHostsCommand(options: { config?: string; format: OutputFormat }): Promise<number> {
  await using state = await openState(await loadConfig(options.config ?? null), 'visit');
  const rows = (await listHosts(state.db)).map((host) => ({
    host: host.name,
    vcpus: host.vcpus,
    'memory (MiB)': host.memory_mib,
    'disk (GiB)': host.disk_gib,
    'runs under': host.virt_type,
    'disks as': host.storage,
    traits: host.traits.join(' '),
    seen: host.seen_at.toISOString(),
  }));
  const columns = ['host', 'vcpus', 'memory (MiB)', 'disk (GiB)', 'runs under', 'disks as', 'traits', 'seen'];
  printRows(rows, columns, options.format);
  return 0;
}
