import pino from 'pino';
import { untilSignalled } from '#cli/signals.ts';
import { failWith, say } from '#cli/ui.ts';
import { loadConfig } from '#config/load.ts';
import { startHostAgent } from '#main/host-agent.ts';

const STOP_TIMEOUT_MS = 15_000;

/** Runs the agent of this host until SIGINT or SIGTERM. Guests run on; the next start finds them. */
export async function hostAgent({ config: file }: { config?: string }): Promise<number> {
  const config = await loadConfig(file ?? null);
  const log = pino({ level: config.log.level }, pino.destination({ fd: 2, sync: true }));
  const stopped = untilSignalled();
  const agent = await startHostAgent(config, log);
  say(`nightlatch host-agent waits for the control plane on port ${agent.port}`);
  say(`${await stopped}: stopping; guests run on`);
  setTimeout(() => process.exit(1), STOP_TIMEOUT_MS).unref();
  try {
    await agent[Symbol.asyncDispose]();
  } catch (error) {
    failWith(error);
    return 1;
  }
  setTimeout(() => process.exit(), 1000).unref();
  return 0;
}
