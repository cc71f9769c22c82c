import { type Outcome, run } from '#host/exec.ts';
import { imagesTypeUnderTest } from '#test/support/service.ts';

const TIMEOUT_MS = 60_000;

/** The real `openstack` command, logged in by the `clouds.yaml` in a folder. */
export type OpenStackClient = {
  /** Runs a command and returns what it prints with `-f json`. @throws program-failed. */
  json(...args: string[]): Promise<unknown>;
  /** Runs a command that has no `-f`, and returns what it prints. @throws program-failed. */
  text(...args: string[]): Promise<string>;
  /** Runs a command that prints nothing of interest. @throws program-failed. */
  does(...args: string[]): Promise<void>;
  /** Runs a command that must fail, and returns what it complained of. @throws when it succeeds. */
  fails(...args: string[]): Promise<string>;
};

/** `cloud` names the cloud in the folder's `clouds.yaml`. */
export function openStackClient(folder: string, cloud: string): OpenStackClient {
  const command = (args: readonly string[], tolerate: readonly number[] = []): Promise<Outcome> =>
    run('openstack', ['--os-cloud', cloud, ...args], {
      doing: `Running openstack ${args.join(' ')}`,
      cwd: folder,
      timeoutMs: TIMEOUT_MS * (imagesTypeUnderTest === 'lvm' ? 6 : 1),
      tolerate,
    });
  return {
    json: async (...args) => JSON.parse((await command([...args, '-f', 'json'])).stdout),
    text: async (...args) => (await command(args)).stdout,
    does: async (...args) => void (await command(args)),
    fails: async (...args) => {
      const outcome = await command(args, [1, 2]);
      if (outcome.code === 0) throw new Error(`openstack ${args.join(' ')} succeeded`);
      return outcome.stderr;
    },
  };
}
