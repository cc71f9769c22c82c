import { setTimeout as sleep } from 'node:timers/promises';
import type { JsonObject } from '#cli/cloud/client.ts';
import { fail, say } from '#cli/ui.ts';
import { accepts, type FoundVolume, openVolume } from '#cli/volume-lookup.ts';
import { isUnderWay } from '#core/volume-migration.ts';

const POLL_MS = 500;
const PERCENT_STEP = 10;

export type MigrationOptions = { readonly config?: string; readonly bandwidth?: number; readonly cancel?: boolean };

/** Tells how far the move of a volume's data is, until it has ended; or makes it slower, or ends it. */
export async function volumeMigration(name: string, options: MigrationOptions): Promise<number> {
  const volume = await openVolume(name, options.config);
  if (volume === null) return 1;
  if (options.cancel) return await cancelMigration(volume);
  if (options.bandwidth !== undefined) return await setBandwidth(volume, options.bandwidth);
  if ((await volume.migration()) !== null) return await followMigration(volume);
  say(`the data of volume ${volume.id} was never moved`);
  return 0;
}

/** A line each time it is a good part further. */
export async function followMigration(volume: FoundVolume): Promise<number> {
  let told = -PERCENT_STEP;
  let waitsFor: string | null = null;
  for (;;) {
    const migration = await volume.migration();
    if (migration === null) throw new Error(`volume ${volume.id} has no migration`);
    const percent = percentOf(migration);
    if (percent !== null && percent >= told + PERCENT_STEP) {
      say(`${percent} % of volume ${volume.id} is copied`);
      told = percent;
    }
    if (isUnderWay(migration.status) && migration.reason !== waitsFor) {
      waitsFor = migration.reason;
      if (waitsFor !== null) say(`moving the data of volume ${volume.id} waits: ${waitsFor}`);
    }
    if (!isUnderWay(migration.status)) return tellEnd(volume, migration);
    await sleep(POLL_MS);
  }
}

/** Returns when it has ended, well if it was too late. */
export async function cancelMigration(volume: FoundVolume): Promise<number> {
  if (!(await accepts(volume, { 'nightlatch:cancel_migration': null }))) return 1;
  for (;;) {
    const migration = await volume.migration();
    if (migration?.status === 'cancelled') {
      say(`volume ${volume.id} is as it was`);
      return 0;
    }
    if (migration !== null && !isUnderWay(migration.status)) return tellEnd(volume, migration);
    await sleep(POLL_MS);
  }
}

export async function setBandwidth(volume: FoundVolume, bandwidth: number): Promise<number> {
  if (!(await accepts(volume, { 'nightlatch:set_migration_bandwidth': { bandwidth } }))) return 1;
  say(
    `the data of volume ${volume.id} is moved ${bandwidth === 0 ? 'as fast as it goes' : `at most ${bandwidth} MiB per second`}`,
  );
  return 0;
}

/** Null: nobody can say. While its guest writes, there is ever more to do. */
function percentOf({ disk_total_bytes: total, disk_processed_bytes: done }: JsonObject): number | null {
  return total === null || total === 0 ? null : Math.floor((100 * done) / total);
}

function tellEnd(volume: FoundVolume, { status, kind, reason }: JsonObject): number {
  if (status === 'completed') {
    say(`the data of volume ${volume.id} was moved (${kind})`);
    if (reason === null) return 0;
    fail(`what volume ${volume.id} had before is not destroyed: ${reason}`, [
      `Mend that, then run "nightlatch volume rekey ${volume.id} --volume-key", or delete the volume: both destroy it first.`,
    ]);
    return 1;
  }
  const why = status === 'cancelled' ? 'somebody cancelled it.' : `${reason}`;
  fail(`the data of volume ${volume.id} was not moved (${kind}): ${why}`, ['The volume is as it was.']);
  return 1;
}
