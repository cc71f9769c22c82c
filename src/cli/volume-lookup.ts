import { CloudClient, type JsonObject } from '#cli/cloud/client.ts';
import { fail } from '#cli/ui.ts';
import { loadConfig } from '#config/load.ts';
import { readCloudsYaml } from '#main/clouds-yaml.ts';
import { statePaths } from '#main/state-paths.ts';

/** From 3.64 on a volume shows which secret opens it. */
const HEADERS = { 'openstack-api-version': 'volume 3.70' };

/** One volume, as the operator asks the service about it. */
export type FoundVolume = {
  readonly id: string;
  show(): Promise<JsonObject>;
  /** Null: its data was never moved. */
  migration(): Promise<JsonObject | null>;
  /** What was answered; with `error`, why it was refused. */
  act(action: JsonObject): Promise<JsonObject>;
};

/** The volume of this id, or of this name among those of every project. Null, told: there is none, or there are several. */
export async function openVolume(name: string, configFile: string | undefined): Promise<FoundVolume | null> {
  const config = await loadConfig(configFile ?? null);
  const cloud = new CloudClient(await readCloudsYaml(statePaths(config.DEFAULT.state_path).clouds));
  const headers = { 'x-subject-token': await cloud.token() };
  const { token } = await cloud.expect('identity', 'GET', '/v3/auth/tokens', { headers });
  const base = `/v3/${token.project.id}/volumes`;
  const found = await find(cloud, base, name);
  const [only] = found;
  if (!only || found.length > 1) {
    const hint = only ? 'Name it by its id.' : 'See: openstack volume list --all-projects';
    fail(`${found.length} volumes are called '${name}'.`, [hint]);
    return null;
  }
  const path = `${base}/${only.id}`;
  return {
    id: only.id,
    show: async () => (await cloud.expect('volume', 'GET', path, { headers: HEADERS })).volume,
    async migration() {
      const { status, body } = await cloud.request('volume', 'GET', `${path}/migration`, { headers: HEADERS });
      return status === 404 ? null : body.migration;
    },
    async act(wanted) {
      const { status, body } = await cloud.request('volume', 'POST', `${path}/action`, {
        headers: HEADERS,
        body: wanted,
      });
      if (status < 400) return body ?? {};
      return { error: reasonIn(body) ?? `the service answered ${status}.` };
    },
  };
}

/** Acts on a volume. False, told: it was refused. */
export async function accepts(volume: FoundVolume, action: JsonObject): Promise<boolean> {
  const { error } = await volume.act(action);
  if (error) fail(error);
  return !error;
}

/** OpenStack's errors are an object of one property, of any name, that has a message. */
function reasonIn(body: JsonObject): string | null {
  const [error] = Object.values(body ?? {});
  return typeof error?.message === 'string' ? error.message : null;
}

async function find(cloud: CloudClient, base: string, name: string): Promise<JsonObject[]> {
  const byId = await cloud.request('volume', 'GET', `${base}/${encodeURIComponent(name)}`, { headers: HEADERS });
  if (byId.status === 200) return [byId.body.volume];
  const query = `all_tenants=1&name=${encodeURIComponent(name)}`;
  return (await cloud.expect('volume', 'GET', `${base}/detail?${query}`, { headers: HEADERS })).volumes;
}
