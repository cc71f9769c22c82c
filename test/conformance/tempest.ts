import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createWriteStream } from 'node:fs';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import type { Cloud } from '#test/conformance/cloud.ts';

/** Where Debian's tools are; another Python may come first in the caller's path. */
const DEBIAN_PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

export type TestOutcome = 'ok' | 'FAILED' | 'SKIPPED';

type Run = {
  /** Where its configuration and what it prints are put. */
  readonly folder: string;
  readonly workers: number;
  /** Names, as Tempest lists them, without what is in brackets: that differs between its versions. */
  readonly tests: readonly string[];
  /** Called at the end of each test with its name. */
  readonly onTest: (name: string, outcome: TestOutcome) => void;
  /** Once aborted, ends all that runs. */
  readonly stop: AbortSignal;
};

/**
 * Runs OpenStack's own tests against a cloud. Returns the file with all that they printed. A test of a class that could not
 * be set up is never told of. @throws when Tempest itself does not run.
 */
export async function runTempest(cloud: Cloud, { folder, workers, tests, onTest, stop }: Run): Promise<string> {
  await tempest({ cwd: folder, args: ['init', 'workspace'], output: join(folder, 'init.txt'), stop });
  const workspace = join(folder, 'workspace');
  const list = join(folder, 'tests.txt');
  await mkdir(join(folder, 'locks'));
  await writeFile(join(workspace, 'etc', 'tempest.conf'), configText(cloud, folder));
  await writeFile(list, tests.map((test) => `^${test.replaceAll('.', '\\.')}(\\[|$)\n`).join(''));
  const output = join(folder, 'output.txt');
  const args = ['run', '--concurrency', `${workers}`, '--include-list', list];
  const onLine = (line: string) => {
    const told = /^\{\d+\} (\S+) \[[^\]]*\] \.\.\. (ok|FAILED|SKIPPED)/.exec(line);
    if (told) onTest(told[1] ?? '', told[2] as TestOutcome);
  };
  const code = await tempest({ cwd: workspace, args, output, stop, onLine });
  // 1: a test failed.
  if (code !== 0 && code !== 1) throw new Error(`tempest ended with ${code}; see ${output}`);
  return output;
}

type Command = {
  readonly cwd: string;
  readonly args: readonly string[];
  readonly output: string;
  readonly stop: AbortSignal;
  readonly onLine?: (line: string) => void;
};

async function tempest({ cwd, args, output, stop, onLine }: Command): Promise<number | null> {
  const env = { PATH: DEBIAN_PATH, HOME: cwd, LC_ALL: 'C.UTF-8' };
  // A group of its own: its workers are processes that it does not end when it is ended.
  const child = spawn('tempest', args, { cwd, env, stdio: ['ignore', 'pipe', 'pipe'], detached: true });
  const end = () => child.pid !== undefined && process.kill(-child.pid, 'SIGKILL');
  stop.addEventListener('abort', end);
  const file = createWriteStream(output);
  child.stderr.pipe(file, { end: false });
  child.stdout.pipe(file, { end: false });
  if (onLine) createInterface(child.stdout).on('line', onLine);
  const [code] = (await once(child, 'close')) as [number | null];
  stop.removeEventListener('abort', end);
  file.end();
  return code;
}

/** Its configuration: what the cloud has, and what it has not. See "Tempest Configuration Guide". */
function configText({ service, admin, images, flavors, imageFile }: Cloud, folder: string): string {
  const groups: Readonly<Record<string, Readonly<Record<string, string | number | boolean>>>> = {
    DEFAULT: { debug: true, log_dir: folder, log_file: 'tempest.log' },
    auth: {
      use_dynamic_credentials: true,
      create_isolated_networks: false,
      default_credentials_domain_name: 'Default',
      tempest_roles: 'member',
      admin_username: admin.userName,
      admin_password: admin.password,
      admin_project_name: admin.projectName,
      admin_domain_name: 'Default',
    },
    identity: {
      auth_version: 'v3',
      uri_v3: `${service.url}/identity/v3`,
      v3_endpoint_type: 'publicURL',
      region: 'RegionOne',
      admin_role: 'admin',
      default_domain_id: 'default',
    },
    'identity-feature-enabled': { api_v2: false, api_v2_admin: false, api_v3: true, trust: false },
    service_available: { nova: true, cinder: true, glance: true, neutron: false, swift: false, horizon: false },
    compute: {
      image_ref: images[0],
      image_ref_alt: images[1],
      flavor_ref: flavors[0],
      flavor_ref_alt: flavors[1],
      build_interval: 1,
      build_timeout: 300 * service.patience,
      min_microversion: '2.1',
      max_microversion: '2.93',
      volume_device_name: 'vdb',
      shelved_offload_time: 0,
    },
    'compute-feature-enabled': {
      attach_encrypted_volume: true,
      resize: true,
      cold_migration: false,
      live_migration: false,
      interface_attach: false,
      vnc_console: false,
      config_drive: true,
      metadata_service: false,
      personality: false,
      swap_volume: false,
      volume_multiattach: false,
      rescue: true,
      stable_rescue: false,
    },
    volume: {
      catalog_type: 'volumev3',
      min_microversion: '3.0',
      max_microversion: '3.70',
      volume_size: 1,
      volume_type: '__DEFAULT__',
      storage_protocol: service.hasLogicalVolumes ? 'lvm' : 'file',
      vendor_name: 'Nightlatch',
      disk_format: 'raw',
      backend_names: 'files',
      build_interval: 1,
      build_timeout: 300 * service.patience,
    },
    'volume-feature-enabled': {
      backup: true,
      snapshot: true,
      clone: true,
      multi_backend: false,
      manage_snapshot: false,
      manage_volume: false,
      extend_attached_volume: true,
      extend_attached_encrypted_volume: true,
      api_extensions: 'all',
    },
    image: { disk_formats: 'raw,qcow2', container_formats: 'bare', build_timeout: 300 * service.patience },
    'image-feature-enabled': { api_v1: false, api_v2: true, import_image: false },
    validation: { run_validation: false, security_group: false, security_group_rules: false },
    scenario: { img_file: imageFile, img_disk_format: 'raw', img_container_format: 'bare' },
    'service-clients': { http_timeout: 120 * service.patience },
    oslo_concurrency: { lock_path: join(folder, 'locks') },
  };
  return Object.entries(groups)
    .map(([group, options]) => {
      const lines = Object.entries(options).map(([name, value]) => `${name} = ${value}\n`);
      return `[${group}]\n${lines.join('')}\n`;
    })
    .join('');
}
