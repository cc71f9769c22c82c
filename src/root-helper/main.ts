import { stat } from 'node:fs/promises';
import { parseArgs } from 'node:util';
import { volumeGroupsOf } from '#config/disk-places.ts';
import { DEFAULT_CONFIG_FILE, loadConfig } from '#config/load.ts';
import { describeError, NightlatchError } from '#core/errors.ts';
import { grantPrivilege } from '#host/grant.ts';
import { helperServer } from '#root-helper/serve.ts';
import { givenSocket, listen } from '#root-helper/socket.ts';

/**
 * The root helper: what of a host needs root, for a service that is not. It takes its socket from systemd, or makes the one
 * that `--listen` names, mode 0660; who may write to the socket may have every command of `helperShapes` run.
 */
const USAGE = 'usage: nightlatch root-helper [--config FILE] [--listen PATH]';

const OPTIONS = {
  config: { type: 'string' },
  listen: { type: 'string' },
  help: { type: 'boolean', default: false },
} as const;

const say = (line: string) => process.stderr.write(`nightlatch root-helper: ${line}\n`);

async function start(): Promise<void> {
  const { values } = parseArgs({ options: OPTIONS });
  if (values.help) return void say(USAGE);
  if (process.geteuid?.() !== 0) throw refuse('it needs root');
  await checkOwner(values.config ?? DEFAULT_CONFIG_FILE);
  const { groups, thinPools } = volumeGroupsOf(await loadConfig(values.config ?? null));
  if (groups.length === 0) throw refuse('[libvirt] images_volume_group is empty. Name the volume group for disks');
  grantPrivilege({ volumeGroups: groups, thinPools });
  const { LISTEN_PID, LISTEN_FDS } = process.env;
  const isGiven = LISTEN_PID === String(process.pid) && LISTEN_FDS === '1';
  if (!isGiven && values.listen === undefined) throw refuse(`it was given no socket. ${USAGE}`);
  // Looked at first: whoever waits is served as soon as we listen.
  const given = isGiven ? await givenSocket() : null;
  if (given?.isForAll) throw refuse(`everybody may write to ${given.path}. Give it mode 0660`);
  await listen(helperServer(say), isGiven ? null : (values.listen ?? ''));
  const path = given?.path ?? values.listen;
  say(`serves at ${path} for volume group ${groups.join(', ')}`);
}

/** What bounds us must be no service's to change. */
async function checkOwner(file: string): Promise<void> {
  const { uid, mode } = await stat(file).catch((error: unknown) => {
    throw refuse(`its configuration ${file} cannot be read (${describeError(error)})`);
  });
  if (uid !== 0 || (mode & 0o022) !== 0) throw refuse(`${file} can be changed by others than root`);
}

function refuse(what: string): NightlatchError {
  return new NightlatchError('bad-request', { reason: `Starting the root helper failed: ${what}.` });
}

try {
  await start();
} catch (error) {
  say(describeError(error));
  process.exit(1);
}
