import { Command, InvalidArgumentError, Option } from 'commander';
import { failWith, outputFormats } from '#cli/ui.ts';

/** Every command ends with an exit code of its own: 0 done, 1 failed, 2 used wrongly. */
type Action<Args extends readonly unknown[]> = (...args: Args) => Promise<number>;

const config = new Option('--config <file>', 'configuration file (default: /etc/nightlatch/nightlatch.toml, if there)');
const format = new Option('-f, --format <format>', 'how to print').choices(outputFormats).default('table');
const bandwidth = new Option(
  '--bandwidth <MiB>',
  'at most so many MiB per second under a guest, also once it runs; 0: no limit',
).argParser(wholeNumber);

function wholeNumber(text: string): number {
  if (/^[0-9]{1,7}$/.test(text)) return Number(text);
  throw new InvalidArgumentError('It must be a whole number.');
}

function buildProgram(): Command {
  const program = new Command('nightlatch')
    .description('Encrypted virtual machines behind the OpenStack APIs: every disk has its own key.')
    .exitOverride()
    .showHelpAfterError('hint: nightlatch --help')
    .addHelpText('after', '\nroot-helper, a program of its own, does what needs root: nightlatch root-helper --help');
  program
    .command('serve')
    .description('run the service')
    .addOption(config)
    .action(ending(async () => (await import('#cli/serve.ts')).serve));
  program
    .command('doctor')
    .description('check whether this host can do what Nightlatch needs')
    .addOption(config)
    .addOption(format)
    .action(ending(async () => (await import('#cli/doctor.ts')).doctor));
  program
    .command('tour')
    .description('show the main job step by step, against the real service')
    .option('--image <file>', 'a cloud image with cloud-init, instead of the one built on the spot')
    .option('--data-dir <directory>', 'where the tour keeps everything', '/var/lib/nightlatch-tour')
    .addOption(new Option('--images-type <type>', 'how disks are stored').choices(['raw', 'qcow2']).default('qcow2'))
    .option('--json', 'one JSON object a step', false)
    .option('--exit', 'end after the last step instead of serving on', false)
    .action(ending(async () => (await import('#cli/tour/tour.ts')).tour));
  const lease = program.command('key').description('keys').command('lease').description('which keys are where');
  lease
    .command('list')
    .description('the live leases: which disk’s key is on which host, and why')
    .addOption(config)
    .addOption(format)
    .action(ending(async () => (await import('#cli/leases.ts')).listLeases));
  const audit = program.command('audit').description('the record of every key released');
  audit
    .command('list')
    .description('the newest records')
    .option('--limit <count>', 'how many', '50')
    .addOption(config)
    .addOption(format)
    .action(ending(async () => (await import('#cli/audit.ts')).listAudit));
  audit
    .command('verify')
    .description('check that no record was changed, moved or removed')
    .addOption(config)
    .action(ending(async () => (await import('#cli/audit.ts')).verifyAuditLog));
  program
    .command('host-agent')
    .description('run the agent of a compute host that another machine controls')
    .addOption(config)
    .action(ending(async () => (await import('#cli/host-agent.ts')).hostAgent));
  const volume = program.command('volume').description('volumes');
  const header = volume.command('header').description('copies of the encryption header of a volume');
  header
    .command('list <volume>')
    .description('the copies that are kept')
    .addOption(config)
    .addOption(format)
    .action(ending(async () => (await import('#cli/volume-header.ts')).listHeaders));
  header
    .command('restore <volume> [version]')
    .description('write a copy back to a volume that nobody has open, the last one or that of a version')
    .addOption(config)
    .action(ending(async () => (await import('#cli/volume-header.ts')).restoreHeader));
  volume
    .command('rekey <volume>')
    .description('give a volume another key, also while a guest has it')
    .option('--volume-key', 'another volume key too: all of its data is written anew')
    .addOption(bandwidth)
    .option('--cancel', 'end the writing anew; the volume is as it was')
    .addOption(config)
    .action(ending(async () => (await import('#cli/volume.ts')).rekeyVolume));
  volume
    .command('migration <volume>')
    .description('how far the data of a volume is moved, by a rekey, a retype or a migration')
    .addOption(bandwidth)
    .option('--cancel', 'end it; the volume is as it was')
    .addOption(config)
    .action(ending(async () => (await import('#cli/volume-migration.ts')).volumeMigration));
  addHostCommands(program.command('host').description('compute hosts'));
  return program;
}

function addHostCommands(host: Command): void {
  host
    .command('list')
    .description('the hosts with their traits')
    .addOption(config)
    .addOption(format)
    .action(ending(async () => (await import('#cli/hosts.ts')).listHostsCommand));
  host
    .command('enroll <name>')
    .description('let another machine be a host: make its certificate and make it known')
    .requiredOption('--address <address:port>', 'where its agent will listen')
    .requiredOption('--out <directory>', 'where to write the files it needs')
    .addOption(config)
    .action(ending(async () => (await import('#cli/hosts.ts')).enrollHostCommand));
  host
    .command('remove <name>')
    .description('forget a host on which no servers are')
    .addOption(config)
    .action(ending(async () => (await import('#cli/hosts.ts')).removeHostCommand));
  host
    .command('lock')
    .description('end every guest on this host at once and lock everything')
    .requiredOption('--all', 'say that everything is meant')
    .option('--yes', 'do not ask', false)
    .addOption(config)
    .addOption(format)
    .action(ending(async () => (await import('#cli/host-lock.ts')).lockHost));
}

/** A command loads its own code and no other's: the agent of a host has none for asking for keys. */
function ending<Args extends readonly unknown[]>(load: () => Promise<Action<Args>>): (...args: Args) => Promise<void> {
  return async (...args) => {
    const action = await load();
    process.exitCode = await action(...args);
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
