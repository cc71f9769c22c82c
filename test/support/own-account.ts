import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { fileURLToPath } from 'node:url';
import { command } from '#test/support/command.ts';

const CHECKOUT = fileURLToPath(new URL('../..', import.meta.url));
/** The folder of the units and rules for a service without root. */
export const PACKAGING = `${CHECKOUT}packaging/unprivileged`;

/** Groups that packages of Debian make, and in which the unit puts the account. */
const supplementaryGroups = /^SupplementaryGroups=(.+)$/m
  .exec(readFileSync(`${PACKAGING}/nightlatch.service`, 'utf8'))?.[1]
  ?.split(' ');

/** A command line that gives the account `nightlatch` as its unit does, without any privilege, to the program put after it. */
export const asNightlatch: readonly string[] = [
  'setpriv',
  ...['--reuid', 'nightlatch', '--regid', 'nightlatch', '--init-groups', '--no-new-privs', '--bounding-set=-all', '--'],
];

/** Makes the account by the files of `packaging/unprivileged`, and gives it the disks in this volume group. */
export function makeAccount(volumeGroup: string): void {
  // A checkout may lie where only root can pass; nothing of this reaches the machine.
  for (let folder = dirname(CHECKOUT); folder !== '/'; folder = dirname(folder))
    command('chmod', ['o+x', folder], { tolerate: [1] });
  command('systemd-sysusers', [`${PACKAGING}/nightlatch.sysusers`]);
  for (const group of supplementaryGroups ?? []) {
    // 9: it is there already.
    command('groupadd', ['--system', group], { tolerate: [9] });
    command('gpasswd', ['--add', 'nightlatch', group]);
  }
  const rules = readFileSync(`${PACKAGING}/90-nightlatch.rules`, 'utf8').replace(
    'DM_VG_NAME}=="nightlatch"',
    `DM_VG_NAME}=="${volumeGroup}"`,
  );
  mkdirSync('/etc/udev/rules.d', { recursive: true });
  writeFileSync('/etc/udev/rules.d/90-nightlatch.rules', rules);
  command('udevadm', ['control', '--reload']);
}
