import pino from 'pino';
import { untilSignalled } from '#cli/signals.ts';
import { failWith, say } from '#cli/ui.ts';
import { loadConfig } from '#config/load.ts';
import { startService } from '#main/service.ts';

/** A stop that takes longer than this is given up; what it left half done goes on at the next start. */
const STOP_TIMEOUT_MS = 15_000;

/** Runs the service until SIGINT or SIGTERM, or until it loses its database. Guests run on; the next start finds them. */
export async function serve({ config: file }: { config?: string }): Promise<number> {
  const config = await loadConfig(file ?? null);
  const log = pino({ level: config.log.level }, pino.destination({ fd: 2, sync: true }));
  const stopped = untilSignalled();
  const service = await startService(config, log);
  say(`nightlatch serves at ${service.url}`);
  say(`log in with: OS_CLIENT_CONFIG_FILE=${service.cloudsFile} openstack --os-cloud nightlatch token issue`);
  const end = await Promise.race([stopped, service.lost]);
  if (typeof end === 'string') say(`${end}: stopping; guests run on`);
  else failWith(end);
  const givenUp = setTimeout(() => process.exit(1), STOP_TIMEOUT_MS);
  givenUp.unref();
  try {
    await service[Symbol.asyncDispose]();
  } catch (error) {
    failWith(error);
    return 1;
  }
  // Libraries may keep a timer or a socket open; everything of ours is closed by now.
  setTimeout(() => process.exit(), 1000).unref();
  return typeof end === 'string' ? 0 : 1;
}
