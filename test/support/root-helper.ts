import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync } from 'node:fs';
import { chmod, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { HostPath } from '#core/ids.ts';
import { waitUntil } from '#test/support/wait.ts';

const NIGHTLATCH = fileURLToPath(new URL('../../bin/nightlatch', import.meta.url));
const HELPER_UNIT = fileURLToPath(new URL('../../packaging/unprivileged/nightlatch-helper.service', import.meta.url));

/** A real root helper, as systemd starts it or by `--listen`; gone with its scope. */
export type RootHelper = AsyncDisposable & {
  readonly socket: HostPath;
  readonly process: ChildProcess;
  readonly ended: Promise<unknown>;
  /** What it has said so far. */
  log(): string;
};

export type RootHelperOptions = {
  readonly volumeGroup: string;
  /** By the socket of `systemd-socket-activate`, as by systemd: the helper starts with its first client. */
  readonly activated?: boolean;
  /** Programs that take something away before the helper starts. */
  readonly wrapper?: readonly string[];
  readonly configMode?: number;
  /** Of a socket that is handed over. */
  readonly socketMode?: number;
};

/** Takes away what nightlatch-helper.service does not leave the helper: capabilities, and the network. */
export function asItsUnit(): string[] {
  const unit = readFileSync(HELPER_UNIT, 'utf8');
  const names = /^CapabilityBoundingSet=(.+)$/m.exec(unit)?.[1]?.split(' ') ?? [];
  const capabilities = names.map((name) => `+${name.toLowerCase().replace('cap_', '')}`);
  return ['unshare', '--net', '--', 'setpriv', '--no-new-privs', `--bounding-set=-all,${capabilities}`, '--'];
}

export async function startRootHelper({
  volumeGroup,
  activated = false,
  wrapper = [],
  configMode = 0o600,
  socketMode = 0o660,
}: RootHelperOptions): Promise<RootHelper> {
  const folder = await mkdtemp('/run/nightlatch-helper-');
  const config = join(folder, 'nightlatch.toml');
  const socket = join(folder, 'helper.sock') as HostPath;
  await writeFile(config, `[libvirt]\nimages_volume_group = "${volumeGroup}"\n`);
  await chmod(config, configMode);
  const helper = [...wrapper, NIGHTLATCH, 'root-helper', '--config', config];
  const words = activated ? ['systemd-socket-activate', '-l', socket, ...helper] : [...helper, '--listen', socket];
  const child = spawn('sh', ['-c', 'umask 0022; exec "$@"', 'sh', ...words], { stdio: ['ignore', 'ignore', 'pipe'] });
  let said = '';
  child.stderr?.setEncoding('utf8').on('data', (text: string) => {
    said += text;
  });
  const closed = once(child, 'close');
  await waitUntil('the helper listens or has ended', async () => existsSync(socket) || child.exitCode !== null);
  if (activated) await chmod(socket, socketMode);
  return {
    socket,
    process: child,
    ended: closed,
    log: () => said,
    async [Symbol.asyncDispose]() {
      child.kill('SIGTERM');
      await closed;
      await rm(folder, { recursive: true });
    },
  };
}
