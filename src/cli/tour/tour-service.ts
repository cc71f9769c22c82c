import { mkdir, rename, stat, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { join } from 'node:path';
import pino from 'pino';
import { CloudClient } from '#cli/cloud/client.ts';
import { HostObserver } from '#cli/tour/host-look.ts';
import { must, type Told } from '#cli/tour/narrator.ts';
import { parseConfig } from '#config/load.ts';
import { listHosts } from '#db/hosts.ts';
import { readCloudsYaml } from '#main/clouds-yaml.ts';
import { type Service, startService } from '#main/service.ts';
import { openState, type State } from '#main/state.ts';

/** The real service in this process, and the ways by which the tour looks at it. */
export type TourService = {
  readonly service: Service;
  /** The database, seen by a visitor. */
  readonly state: State;
  readonly client: CloudClient;
  readonly observer: HostObserver;
  readonly configFile: string;
};

export type TourServiceOptions = {
  readonly dataDirectory: string;
  readonly imagesType: string;
  /** Ends the client's requests when it is aborted. */
  readonly stop: AbortSignal;
  /** Owns what is started, also when a later part fails. */
  readonly undo: AsyncDisposableStack;
};

const FIRST_PORT = 5000;
const PORTS_TRIED = 20;

/** Starts the service on the data directory, as `npm start` does with the configuration file that is left in it. */
export async function startTourService(options: TourServiceOptions): Promise<Told<TourService>> {
  const { dataDirectory, stop, undo } = options;
  const configFile = join(dataDirectory, 'nightlatch.toml');
  const text = configText(options, await freePort());
  const config = parseConfig(text, configFile);
  await mkdir(dataDirectory, { recursive: true, mode: 0o711 });
  await writeFile(`${configFile}.new`, text, { mode: 0o600 });
  await rename(`${configFile}.new`, configFile);
  const destination = pino.destination({ dest: join(dataDirectory, 'service.log'), mode: 0o600, sync: true });
  const service = undo.use(await startService(config, pino({ level: config.log.level }, destination)));
  const state = undo.use(await openState(config, 'visit'));
  const client = new CloudClient(await readCloudsYaml(service.cloudsFile), stop);
  const observer = new HostObserver(state.db, state.paths.run);
  const started = { service, state, client, observer, configFile };
  return { value: started, evidence: await evidenceOf(started) };
}

async function evidenceOf({ service, state, client }: TourService) {
  const { catalog } = (await client.expect('identity', 'GET', '/v3/auth/catalog')) as { catalog: { type: string }[] };
  const [host] = await listHosts(state.db);
  must(host !== undefined, 'the service has no host');
  const rootKey = await stat(state.paths.rootKey);
  const mode = (rootKey.mode & 0o777).toString(8).padStart(4, '0');
  return [
    { lookedAt: 'service catalog', found: `${catalog.map(({ type }) => type).join(', ')} at ${service.url}` },
    {
      lookedAt: `host ${host.name}`,
      found: `guests run under ${host.virt_type}, disks are ${host.storage}; ${host.traits.join(' ')}`,
    },
    { lookedAt: state.paths.rootKey, found: `the root key, ${rootKey.size} bytes, mode ${mode}` },
  ];
}

function configText({ dataDirectory, imagesType }: TourServiceOptions, port: number): string {
  return [
    '# Written by `npm run tour`. To serve again: npm start -- --config THIS_FILE',
    '[DEFAULT]',
    `state_path = ${JSON.stringify(dataDirectory)}`,
    '[api]',
    `listen = "127.0.0.1:${port}"`,
    '[libvirt]',
    `images_type = ${JSON.stringify(imagesType)}`,
    '',
  ].join('\n');
}

/** 5000, where Keystone is by habit, or the next one that is free. */
async function freePort(): Promise<number> {
  for (let port = FIRST_PORT; port < FIRST_PORT + PORTS_TRIED; port++) if (await isFree(port)) return port;
  return 0;
}

function isFree(port: number): Promise<boolean> {
  const { promise, resolve } = Promise.withResolvers<boolean>();
  const server = createServer();
  server.once('error', () => resolve(false));
  server.listen({ host: '127.0.0.1', port }, () => server.close(() => resolve(true)));
  return promise;
}
