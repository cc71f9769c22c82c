import { open, readFile, rename } from 'node:fs/promises';
import { dirname } from 'node:path';

/** The name of our cloud in `clouds.yaml`: `openstack --os-cloud nightlatch …`. */
export const CLOUD_NAME = 'nightlatch';

export type CloudLogin = {
  readonly authUrl: string;
  readonly userName: string;
  readonly password: string;
  readonly projectName: string;
  readonly domainId: string;
};

/**
 * Writes how to log in, where OpenStack clients look for it, readable by its owner alone. Whole and durable, or not at
 * all. See "Configuring OpenStack SDK Applications" in the openstacksdk documentation.
 */
export async function writeCloudsYaml(path: string, login: CloudLogin): Promise<void> {
  const text = [
    'clouds:',
    `  ${CLOUD_NAME}:`,
    '    auth:',
    `      auth_url: ${quote(login.authUrl)}`,
    `      username: ${quote(login.userName)}`,
    `      password: ${quote(login.password)}`,
    `      project_name: ${quote(login.projectName)}`,
    `      user_domain_id: ${quote(login.domainId)}`,
    `      project_domain_id: ${quote(login.domainId)}`,
    '    region_name: RegionOne',
    '    identity_api_version: 3',
    // Asking for no network (`--nic none`) needs 2.37.
    "    compute_api_version: '2.90'",
    '',
  ].join('\n');
  await writePrivately(path, text);
}

async function writePrivately(path: string, text: string): Promise<void> {
  const unfinished = `${path}.new`;
  {
    await using file = await open(unfinished, 'w', 0o600);
    await file.writeFile(text);
    await file.sync();
  }
  await rename(unfinished, path);
  await using folder = await open(dirname(path), 'r');
  await folder.sync();
}

/** Reads back what `writeCloudsYaml` wrote. @throws when it is not a file of ours. */
export async function readCloudsYaml(path: string): Promise<CloudLogin> {
  const text = await readFile(path, 'utf8');
  const field = (name: string): string => {
    const found = new RegExp(`^ +${name}: (".*")$`, 'm').exec(text)?.[1];
    if (found === undefined) throw new Error(`${path} does not say ${name} as we write it`);
    return JSON.parse(found) as string;
  };
  return {
    authUrl: field('auth_url'),
    userName: field('username'),
    password: field('password'),
    projectName: field('project_name'),
    domainId: field('user_domain_id'),
  };
}

/** A JSON string is a YAML double-quoted scalar (YAML 1.2, section 1.3). */
function quote(text: string): string {
  return JSON.stringify(text);
}

/** Puts another address into a `clouds.yaml` of ours, if it is there: its owner may have moved or changed it. */
export async function updateAuthUrl(path: string, authUrl: string): Promise<void> {
  const text = await readFile(path, 'utf8').catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return null;
    throw error;
  });
  const changed = text?.replace(/^( +auth_url: ).*$/m, (_, start: string) => `${start}${quote(authUrl)}`);
  if (changed !== undefined && changed !== text) await writePrivately(path, changed);
}
