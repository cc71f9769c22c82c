import { NightlatchError } from '#core/errors.ts';
import type { HostPath } from '#core/ids.ts';
import { type Bounds, type GivenInput, isPrivileged, type Runner, runnerOf } from '#host/privilege.ts';

let helper: HostPath | null = null;
const granted = { volumeGroups: new Set<string>(), thinPools: new Set<string>(), directories: new Set<string>() };

/** `helper`: the socket of the root helper, where there is one. */
export type Grant = Partial<Bounds> & { readonly helper?: HostPath };

/** Lets this process run privileged commands within more bounds; without a grant it runs none. *Repeat*: fine. */
export function grantPrivilege(more: Grant): void {
  helper = more.helper ?? helper;
  for (const kind of ['volumeGroups', 'thinPools', 'directories'] as const) {
    for (const name of more[kind] ?? []) granted[kind].add(name);
  }
}

/**
 * Who is to run a command; null: the program is none that needs privilege.
 *
 * @throws privilege-refused when it is, and the command has none of the shapes within what was granted.
 */
export function admit(program: string, args: readonly string[], input: GivenInput, doing: string): Runner | null {
  if (!isPrivileged(program)) return null;
  const bounds: Bounds = {
    volumeGroups: [...granted.volumeGroups],
    thinPools: [...granted.thinPools],
    directories: [...granted.directories],
  };
  const runner = runnerOf(program, args, input, bounds);
  if (runner !== null) return runner;
  const words = (list: readonly string[]) => (list.length === 0 ? 'none' : list.join(', '));
  throw new NightlatchError('privilege-refused', {
    doing,
    command: [program, ...args].join(' '),
    directories: words(bounds.directories),
    groups: words(bounds.volumeGroups),
  });
}

/**
 * The helper to run a command of `helperShapes`; null: this process is root and does it itself.
 *
 * @throws root-helper-required.
 */
export function helperFor(doing: string): HostPath | null {
  if (helper === null && process.geteuid?.() !== 0) throw new NightlatchError('root-helper-required', { doing });
  return helper;
}
