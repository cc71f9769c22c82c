import { setTimeout as sleep } from 'node:timers/promises';
import type { JsonObject } from '#cli/cloud/client.ts';
import { fail, type OutputFormat, printRows, say } from '#cli/ui.ts';
import { type FoundVolume, openVolume } from '#cli/volume-lookup.ts';

const POLL_MS = 200;
const TIMEOUT_MS = 120_000;

type HeaderBackup = { readonly version: number; readonly is_current: boolean } & JsonObject;

/** Prints the copies of a volume's header that its host keeps, oldest first. */
export async function listHeaders(volume: string, options: { config?: string; format: OutputFormat }): Promise<number> {
  const found = await openVolume(volume, options.config);
  if (found === null) return 1;
  const rows = (await backupsOf(found)).map(({ version, encryption_key_id, created_at, is_current }) => {
    return { version, secret: encryption_key_id, stored: created_at, current: is_current };
  });
  printRows(rows, ['version', 'secret', 'stored', 'current'], options.format);
  return 0;
}

/** Writes a kept header back to a volume that nobody has open, and waits until it is there. */
export async function restoreHeader(
  volume: string,
  version: string | undefined,
  options: { config?: string },
): Promise<number> {
  if (version !== undefined && !/^[1-9]\d{0,8}$/.test(version)) {
    fail(`'${version}' is no version of a header.`, [`See: nightlatch volume header list ${volume}`]);
    return 2;
  }
  const found = await openVolume(volume, options.config);
  if (found === null) return 1;
  const wanted = version === undefined ? (await backupsOf(found)).at(-1)?.version : Number(version);
  const { error } = await found.act({ 'nightlatch:restore_header': wanted === undefined ? {} : { version: wanted } });
  if (error) {
    fail(error, [`See: nightlatch volume header list ${volume}`]);
    return 1;
  }
  say(`volume ${found.id}: restoring version ${wanted} of its header`);
  const deadline = Date.now() + TIMEOUT_MS;
  while ((await found.show()).status === 'maintenance') {
    if (Date.now() > deadline) {
      fail(`volume ${found.id} is still at it.`, ['It goes on; see: openstack volume show']);
      return 1;
    }
    await sleep(POLL_MS);
  }
  if ((await backupsOf(found)).some((backup) => backup.version === wanted && backup.is_current)) {
    say(`volume ${found.id} has version ${wanted} of its header`);
    return 0;
  }
  fail(`volume ${found.id} does not have version ${wanted} of its header.`, [
    'See "openstack volume message list", or the log of the service, for why.',
  ]);
  return 1;
}

async function backupsOf(found: FoundVolume): Promise<HeaderBackup[]> {
  const { error, header_backups } = await found.act({ 'nightlatch:header_backups': null });
  if (error) throw new Error(error);
  return header_backups;
}
