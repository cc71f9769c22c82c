import type { ConfigDriveFile } from '#core/disk.ts';
import { MIB } from '#core/sizes.ts';

/**
 * Bytes of a config drive. Its content is bounded by the API (64 KiB of user data, 128 pairs of metadata), so one size
 * fits all and the disk can be placed before its content is made.
 */
export const CONFIG_DRIVE_BYTES = 4 * MIB;
/** Volume label by which guests find it. See nova.virt.configdrive. */
export const CONFIG_DRIVE_LABEL = 'config-2';

export type ConfigDriveFacts = {
  readonly serverId: string;
  readonly projectId: string;
  readonly name: string;
  readonly hostname: string;
  readonly metadata: Readonly<Record<string, string>>;
  readonly launchIndex: number;
  /** Base64; null: none. */
  readonly userData: string | null;
  /** A line of authorized_keys(5), and what its owner calls it; null: none. */
  readonly key: { readonly name: string; readonly line: string } | null;
};

/** The files of a config drive, as cloud-init's ConfigDrive data source reads them. */
export function configDriveFiles(facts: ConfigDriveFacts): ConfigDriveFile[] {
  const metaData = {
    uuid: facts.serverId,
    name: facts.name,
    hostname: facts.hostname,
    project_id: facts.projectId,
    launch_index: facts.launchIndex,
    availability_zone: 'nova',
    meta: facts.metadata,
    devices: [],
    ...(facts.key === null ? {} : sshKeys(facts.key)),
  };
  const files = [
    json('openstack/latest/meta_data.json', metaData),
    json('openstack/latest/network_data.json', { links: [], networks: [], services: [] }),
    json('openstack/latest/vendor_data.json', {}),
  ];
  if (facts.userData !== null) files.push({ path: 'openstack/latest/user_data', base64: facts.userData });
  return files;
}

/** Both ways in which guests look for keys. See nova.api.metadata.base. */
function sshKeys({ name, line }: NonNullable<ConfigDriveFacts['key']>): object {
  return { public_keys: { [name]: line }, keys: [{ name, type: 'ssh', data: line }] };
}

/** A name a host may have: letters, digits and hyphens, at most 63. See nova.utils.sanitize_hostname. */
export function hostnameOf(name: string): string {
  const cleaned = name
    .toLowerCase()
    .replace(/[ _.]/g, '-')
    .replace(/[^a-z0-9-]/g, '')
    .slice(0, 63)
    .replace(/^-+|-+$/g, '');
  return cleaned === '' ? 'server' : cleaned;
}

function json(path: string, content: unknown): ConfigDriveFile {
  return { path, base64: Buffer.from(JSON.stringify(content)).toString('base64') };
}
