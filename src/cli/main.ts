import { Command, Option } from 'commander';
import { listAudit, verifyAuditLog } from '#cli/audit.ts';
import { doctor } from '#cli/doctor.ts';
import { lockHost } from '#cli/host-lock.ts';
import { listHostsCommand } from '#cli/hosts.ts';
import { listLeases } from '#cli/leases.ts';
import { serve } from '#cli/serve.ts';
import { tour } from '#cli/tour/tour.ts';
import { failWith, outputFormats } from '#cli/ui.ts';

/** Every command ends with an exit code of its own: 0 done, 1 failed, 2 used wrongly. */
type Action<Options> = (options: Options) => Promise<number>;

const config = new Option('--config <file>', 'configuration file (default: /etc/nightlatch/nightlatch.toml, if there)');
const format = new Option('-f, --format <format>', 'how to print').choices(outputFormats).default('table');

function buildProgram(): Command {
  const program = new Command('nightlatch')
    .description('Encrypted virtual machines behind the OpenStack APIs: every disk has its own key.')
    .exitOverride()
    .showHelpAfterError('hint: nightlatch --help');
  program.command('serve').description('run the service').addOption(config).action(ending(serve));
  program
    .command('doctor')
    .description('check whether this host can do what Nightlatch needs')
    .addOption(config)
    .addOption(format)
    .action(ending(doctor));
  program
    .command('tour')
    .description('show the main job step by step, against the real service')
    .option('--image <file>', 'a cloud image with cloud-init, instead of the one built on the spot')
    .option('--data-dir <directory>', 'where the tour keeps everything', '/var/lib/nightlatch-tour')
    .addOption(new Option('--images-type <type>', 'how disks are stored').choices(['raw', 'qcow2']).default('qcow2'))
    .option('--json', 'one JSON object a step', false)
    .option('--exit', 'end after the last step instead of serving on', false)
    .action(ending(tour));
  const lease = program.command('key').description('keys').command('lease').description('which keys are where');
  lease
    .command('list')
    .description('the live leases: which disk’s key is on which host, and why')
    .addOption(config)
    .addOption(format)
    .action(ending(listLeases));
  const audit = program.command('audit').description('the record of every key released');
  audit
    .command('list')
    .description('the newest records')
    .option('--limit <count>', 'how many', '50')
    .addOption(config)
    .addOption(format)
    .action(ending(listAudit));
  audit
    .command('verify')
    .description('check that no record was changed, moved or removed')
    .addOption(config)
    .action(ending(verifyAuditLog));
  const host = program.command('host').description('compute hosts');
  host
    .command('list')
    .description('the hosts with their traits')
    .addOption(config)
    .addOption(format)
    .action(ending(listHostsCommand));
  host
    .command('lock')
    .description('end every guest on this host at once and lock everything')
    .requiredOption('--all', 'say that everything is meant')
    .option('--yes', 'do not ask', false)
    .addOption(config)
    .addOption(format)
    .action(ending(lockHost));
  return program;
}

function ending<Options>(action: Action<Options>): (options: Options) => Promise<void> {
  return async (options) => {
    process.exitCode = await action(options);
  };
}

try {
  await buildProgram().parseAsync();
} catch (error) {
  // commander has printed its own message by then; its exit code tells help (0) from misuse (1).
  const code = (error as { code?: string }).code ?? '';
  if (code.startsWith('commander.')) process.exitCode = (error as { exitCode: number }).exitCode === 0 ? 0 : 2;
  else {
    failWith(error);
    process.exitCode = 1;
  }
}
