import { setTimeout as sleep } from 'node:timers/promises';
import { fail, say } from '#cli/ui.ts';
import { accepts, type FoundVolume, openVolume } from '#cli/volume-lookup.ts';
import { cancelMigration, followMigration, setBandwidth } from '#cli/volume-migration.ts';

const POLL_MS = 200;
const TIMEOUT_MS = 120_000;

export type RekeyOptions = {
  readonly config?: string;
  readonly volumeKey?: boolean;
  readonly bandwidth?: number;
  readonly cancel?: boolean;
};

/**
 * Gives a volume another key and waits until only that opens it; a guest that has the volume goes on meanwhile. With
 * `volumeKey` its data is written anew under another volume key too, at most so many MiB per second.
 */
export async function rekeyVolume(name: string, options: RekeyOptions): Promise<number> {
  const volume = await openVolume(name, options.config);
  if (volume === null) return 1;
  if (options.cancel) return await cancelMigration(volume);
  if (options.volumeKey) return await reencrypt(volume, options.bandwidth);
  if (options.bandwidth !== undefined) return await setBandwidth(volume, options.bandwidth);
  return await changePassphrase(volume);
}

async function changePassphrase(volume: FoundVolume): Promise<number> {
  const { encryption_key_id: old } = await volume.show();
  if (!(await accepts(volume, { 'nightlatch:rekey': null }))) return 1;
  const deadline = Date.now() + TIMEOUT_MS;
  while ((await volume.show()).encryption_key_id === old) {
    if (Date.now() > deadline) {
      fail(`volume ${volume.id} still has the key it had.`, ['Look at the log of the service for why.']);
      return 1;
    }
    await sleep(POLL_MS);
  }
  say(`volume ${volume.id} has a new key; the old one opens it no more`);
  return 0;
}

async function reencrypt(volume: FoundVolume, bandwidth: number | undefined): Promise<number> {
  const wanted = { volume_key: true, ...(bandwidth === undefined ? {} : { bandwidth }) };
  if (!(await accepts(volume, { 'nightlatch:rekey': wanted }))) return 1;
  const code = await followMigration(volume);
  if (code === 0)
    say(`volume ${volume.id} has a new key and a new volume key; what was encrypted with the old ones is gone`);
  return code;
}
