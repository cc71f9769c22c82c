import { setTimeout as sleep } from 'node:timers/promises';
import { CloudClient, type JsonObject } from '#cli/cloud/client.ts';
import { fail, type OutputFormat, printRows, say } from '#cli/ui.ts';
import { findVolumes } from '#cli/volume.ts';
import { loadConfig } from '#config/load.ts';
import { readCloudsYaml } from '#main/clouds-yaml.ts';
import { statePaths } from '#main/state-paths.ts';

const POLL_MS = 200;
const TIMEOUT_MS = 120_000;
const HEADERS = { 'openstack-api-version': 'volume 3.70' };

type HeaderBackup = { readonly version: number; readonly is_current: boolean } & JsonObject;

/** A volume that was found, and how to act on it. */
type Found = { readonly id: string; act(action: JsonObject): Promise<JsonObject>; show(): Promise<JsonObject> };

/** Prints the copies of a volume's header that its host keeps, oldest first. */
export async function listHeaders(volume: string, options: { config?: string; format: OutputFormat }): Promise<number> {
  const found = await findOne(volume, options.config);
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
  const found = await findOne(volume, options.config);
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

async function backupsOf(found: Found): Promise<HeaderBackup[]> {
  const { error, header_backups } = await found.act({ 'nightlatch:header_backups': null });
  if (error) throw new Error(error);
  return header_backups;
}

/** Null: there is none, or several, and that was said. */
async function findOne(volume: string, configFile: string | undefined): Promise<Found | null> {
  const config = await loadConfig(configFile ?? null);
  const cloud = new CloudClient(await readCloudsYaml(statePaths(config.DEFAULT.state_path).clouds));
  const headers = { 'x-subject-token': await cloud.token() };
  const { token } = await cloud.expect('identity', 'GET', '/v3/auth/tokens', { headers });
  const base = `/v3/${token.project.id}/volumes`;
  const [one, ...more] = await findVolumes(cloud, base, volume);
  if (!one || more.length > 0) {
    const hint = one ? 'Name it by its id.' : 'See: openstack volume list --all-projects';
    fail(`${one ? more.length + 1 : 0} volumes are called '${volume}'.`, [hint]);
    return null;
  }
  const path = `${base}/${one.id}`;
  return {
    id: one.id,
    show: async () => (await cloud.expect('volume', 'GET', path, { headers: HEADERS })).volume,
    async act(body) {
      const answer = await cloud.request('volume', 'POST', `${path}/action`, { headers: HEADERS, body });
      if (answer.status < 400) return answer.body;
      const [{ message }] = Object.values(answer.body) as [JsonObject];
      return { error: message };
    },
  };
}
