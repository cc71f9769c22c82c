import { X509Certificate } from 'node:crypto';
import { mkdir } from 'node:fs/promises';
import type { Logger } from 'pino';
import type { Config } from '#config/schema.ts';
import { splitAddress } from '#core/address.ts';
import { badRequest, describeError } from '#core/errors.ts';
import type { HostName } from '#core/ids.ts';
import { readCredentials } from '#host/remote/certificates.ts';
import { whyNotPeer } from '#host/remote/peer.ts';
import { HostServer } from '#host/remote/server.ts';
import { openLocalHost } from '#main/local-host.ts';
import { noteServiceProcess } from '#main/service-process.ts';
import { statePaths } from '#main/state-paths.ts';

/** A compute host without a control plane of its own: no database, no API, no key store. */
export type HostAgentProcess = AsyncDisposable & { readonly port: number };

/** Puts the host in order and waits for the control plane. Disposing lets guests run on. @throws what the parts throw. */
export async function startHostAgent(config: Config, log: Logger): Promise<HostAgentProcess> {
  await using undo = new AsyncDisposableStack();
  const credentials = await readCredentials(config.host_agent);
  checkName(config, credentials.certificate);
  const paths = statePaths(config.DEFAULT.state_path);
  await mkdir(config.DEFAULT.state_path, { recursive: true, mode: 0o711 });
  const { agent } = undo.use(await openLocalHost(config, paths, log));
  await noteServiceProcess(paths);
  await agent.lockStrays();
  // Before anybody connects, who would clear away what it works with. What it could not do, the first server does.
  await agent
    .prepare()
    .catch((error: unknown) => log.warn({ err: error }, `preparing the host failed: ${describeError(error)}`));
  const server = undo.use(
    await HostServer.listen({
      name: config.DEFAULT.host as HostName,
      agent,
      ...splitAddress(config.host_agent.listen),
      credentials,
      log,
    }),
  );
  const owned = undo.move();
  return { port: server.port, [Symbol.asyncDispose]: () => owned.disposeAsync() };
}

/** The control plane would refuse it anyway; here its operator reads why. */
function checkName({ DEFAULT: { host: name }, host_agent: { certificate: file } }: Config, pem: string): void {
  const { subjectAltName } = new X509Certificate(pem);
  const refusal = whyNotPeer(subjectAltName ? { subjectaltname: subjectAltName } : {}, { role: 'host', name });
  if (refusal === null) return;
  throw badRequest(
    `Starting the host agent failed: ${file} does not fit: ${refusal}. Set "host" in [DEFAULT] to the name it was enrolled by.`,
  );
}
