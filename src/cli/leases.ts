import { type OutputFormat, printRows } from '#cli/ui.ts';
import { loadConfig } from '#config/load.ts';
import { liveLeases } from '#keys/leases.ts';
import { openState } from '#main/state.ts';

/** Prints the live leases: every key that is on a host now. */
export async function listLeases(options: { config?: string; format: OutputFormat }): Promise<number> {
  await using state = await openState(await loadConfig(options.config ?? null), 'visit');
  const rows = (await liveLeases(state.db)).map((lease) => ({
    lease: lease.id,
    disk: lease.disk_id,
    project: lease.project_id,
    host: lease.host,
    reason: lease.reason,
    since: lease.opened_at.toISOString(),
  }));
  printRows(rows, ['lease', 'disk', 'project', 'host', 'reason', 'since'], options.format);
  return 0;
}
