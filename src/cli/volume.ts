import { setTimeout as sleep } from 'node:timers/promises';
import { CloudClient, type JsonObject } from '#cli/cloud/client.ts';
import { fail, say } from '#cli/ui.ts';
import { loadConfig } from '#config/load.ts';
import { readCloudsYaml } from '#main/clouds-yaml.ts';
import { statePaths } from '#main/state-paths.ts';

const POLL_MS = 200;
const TIMEOUT_MS = 120_000;
/** From 3.64 on a volume shows which secret opens it. */
const HEADERS = { 'openstack-api-version': 'volume 3.70' };

/** Gives a volume another passphrase and waits until only that opens it; a guest that has the volume goes on meanwhile. */
export async function rekeyVolume(volume: string, options: { config?: string }): Promise<number> {
  const config = await loadConfig(options.config ?? null);
  const cloud = new CloudClient(await readCloudsYaml(statePaths(config.DEFAULT.state_path).clouds));
  const headers = { 'x-subject-token': await cloud.token() };
  const { token } = await cloud.expect('identity', 'GET', '/v3/auth/tokens', { headers });
  const base = `/v3/${token.project.id}/volumes`;
  const found = await findVolumes(cloud, base, volume);
  if (found.length !== 1) {
    const hint = found.length === 0 ? 'See: openstack volume list --all-projects' : 'Name it by its id.';
    fail(`${found.length} volumes are called '${volume}'.`, [hint]);
    return 1;
  }
  const [{ id, encryption_key_id: old }] = found as [JsonObject];
  await cloud.expect('volume', 'POST', `${base}/${id}/action`, {
    headers: HEADERS,
    body: { 'nightlatch:rekey': null },
  });
  const deadline = Date.now() + TIMEOUT_MS;
  for (;;) {
    const { volume: shown } = await cloud.expect('volume', 'GET', `${base}/${id}`, { headers: HEADERS });
    if (shown.encryption_key_id !== old) break;
    if (Date.now() > deadline) {
      fail(`volume ${id} still has the key it had.`, ['Look at the log of the service for why.']);
      return 1;
    }
    await sleep(POLL_MS);
  }
  say(`volume ${id} has a new key; the old one opens it no more`);
  return 0;
}

/** By id, or by name among those of every project. */
export async function findVolumes(cloud: CloudClient, base: string, volume: string): Promise<JsonObject[]> {
  const byId = await cloud.request('volume', 'GET', `${base}/${encodeURIComponent(volume)}`, { headers: HEADERS });
  if (byId.status === 200) return [byId.body.volume];
  const query = `all_tenants=1&name=${encodeURIComponent(volume)}`;
  return (await cloud.expect('volume', 'GET', `${base}/detail?${query}`, { headers: HEADERS })).volumes;
}
