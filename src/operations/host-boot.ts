import type { HostName, ServerId } from '#core/ids.ts';
import type { Queryable } from '#db/database.ts';
import { recordedBoot } from '#db/hosts.ts';
import { serversOnHost } from '#db/servers.ts';

/**
 * The servers that were active when an earlier boot of their host ended, and their guests with it. None when this is the
 * boot that was recorded last, as after a restart of the service alone; and none before the first was recorded.
 */
export async function activeBeforeBoot(db: Queryable, host: HostName, bootId: string): Promise<ServerId[]> {
  const recorded = await recordedBoot(db, host);
  if (recorded === null || recorded === bootId) return [];
  const servers = await serversOnHost(db, host);
  return servers.filter(({ vm_state }) => vm_state === 'active').map(({ id }) => id);
}
