import { fail, type OutputFormat, printRows } from '#cli/ui.ts';
import { loadConfig } from '#config/load.ts';
import type { HostPath } from '#core/ids.ts';
import { examineHost } from '#host/doctor.ts';
import { grantPrivilege } from '#host/grant.ts';
import { poolsNeeded } from '#main/ceph-pools.ts';
import { privilegeOf } from '#main/local-host.ts';
import { lvmNeeds } from '#main/local-storage.ts';

/** Prints what this host has and lacks; exit code 1 when something necessary is missing. */
export async function doctor(options: { config?: string; format: OutputFormat }): Promise<number> {
  const config = await loadConfig(options.config ?? null);
  grantPrivilege(privilegeOf(config));
  const findings = await examineHost({
    stateDirectory: config.DEFAULT.state_path as HostPath,
    privateLibvirt: config.libvirt.connection_uri === '',
    rootHelper: config.privilege.helper === '' ? null : (config.privilege.helper as HostPath),
    lvm: lvmNeeds(config),
    pools: poolsNeeded(config),
  });
  printRows(findings, ['check', 'verdict', 'detail'], options.format);
  const failures = findings.filter(({ verdict }) => verdict === 'fail').length;
  if (failures === 0) return 0;
  fail(`this host lacks ${failures} thing(s) that Nightlatch needs.`, ['Each failed row says what to do.']);
  return 1;
}
