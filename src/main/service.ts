import type { AddressInfo } from 'node:net';
import type { FastifyInstance } from 'fastify';
import type { Logger } from 'pino';
import { blockStorageService } from '#api/block-storage/service.ts';
import { catalogServices } from '#api/catalog.ts';
import { computeService } from '#api/compute/service.ts';
import { identityService } from '#api/identity/service.ts';
import { imageService } from '#api/image/service.ts';
import { operatorService } from '#api/operator/service.ts';
import { buildApi } from '#api/server.ts';
import type { Config } from '#config/schema.ts';
import { splitAddress } from '#core/address.ts';
import { describeError } from '#core/errors.ts';
import type { HostName } from '#core/ids.ts';
import { recordBoot } from '#db/hosts.ts';
import type { LocalHostAgent } from '#host/agent.ts';
import { bootstrapIdentity } from '#identity/builtin/bootstrap.ts';
import { BuiltinIdentity } from '#identity/builtin/builtin-identity.ts';
import { FileImageStore } from '#images/builtin/file-image-store.ts';
import { KeyService } from '#keys/key-service.ts';
import { LocalKeyStore } from '#keys/local/key-store.ts';
import { readRootKey } from '#keys/local/root-key.ts';
import { openBackupStore } from '#main/backup-store.ts';
import { updateAuthUrl, writeCloudsYaml } from '#main/clouds-yaml.ts';
import { Hosts } from '#main/hosts.ts';
import { openLocalHost } from '#main/local-host.ts';
import { noteServiceProcess } from '#main/service-process.ts';
import { openState, type State } from '#main/state.ts';
import type { OperationContext } from '#operations/context.ts';
import { durableBlockStorage } from '#operations/durable-block-storage.ts';
import { DurableServerOperations, serverOperations } from '#operations/durable-server-operations.ts';
import { Engine } from '#operations/engine.ts';
import { HostFollower } from '#operations/follow-host.ts';
import { activeBeforeBoot } from '#operations/host-boot.ts';
import { HostLocker } from '#operations/lock-host.ts';
import { VolumeHolds } from '#operations/volume-holds.ts';
import type { BlockStorageOperations } from '#operations/volume-operations.ts';

const REGION = 'RegionOne';

/** The whole of Nightlatch in one process, serving. Disposing ends it cleanly; guests run on. */
export type Service = AsyncDisposable & {
  readonly url: string;
  readonly cloudsFile: string;
  /** See `State`: who serves has to stop then. */
  readonly lost: State['lost'];
};

/** Starts everything in the order in which each part needs the ones before it. @throws what the parts throw. */
export async function startService(config: Config, log: Logger): Promise<Service> {
  await using undo = new AsyncDisposableStack();
  const state = undo.use(await openState(config, 'serve'));
  const rootKey = undo.use(await readRootKey(config.key_manager.root_key_file || state.paths.rootKey, process.env));
  const keys = new KeyService(state.db, await LocalKeyStore.open(state.db, rootKey));
  const images = await FileImageStore.open(state.db, state.paths.images, {
    sizeCapBytes: config.DEFAULT.image_size_cap,
    destroyKey: (image, requestId) => keys.destroyImageKey(image, requestId),
  });
  const hosts = undo.use(new Hosts({ db: state.db, authority: state.paths.authority, log }));
  const local = config.DEFAULT.local_host ? undo.use(await openLocalHost(config, state.paths, log)).agent : null;
  if (local) await noteServiceProcess(state.paths);

  const engine = new Engine(state.pool, log);
  const context: OperationContext = {
    db: state.db,
    keys,
    images,
    backups: undo.use(await openBackupStore(config.backup, state.paths.backups, process.env)),
    engine,
    holds: new VolumeHolds(),
    shutdownTimeoutMs: config.DEFAULT.shutdown_timeout * 1000,
    shelvedOffloadSeconds: config.DEFAULT.shelved_offload_time,
    volumeCopyBytesPerSecond: config.DEFAULT.volume_copy_bps_limit,
    agent: (host) => hosts.agent(host),
  };
  for (const operation of serverOperations(context)) engine.register(operation);
  const operations = new DurableServerOperations(context, engine);
  const blockStorage = durableBlockStorage(context, engine);
  const follower = new HostFollower({ context, engine, operations, log });
  const locker = new HostLocker({ context, operations, follower });

  const seenTo = { config, db: state.db, hosts, follower, locker, log };
  const settleLocal = local ? await takeUpLocal(local, seenTo, undo) : async () => {};
  await hosts.connect();
  await engine.launch();
  undo.defer(() => engine.stop());
  await follower.resumeOperations();
  await settleLocal();
  await takeUpEnrolled(seenTo);

  const api = undo.adopt(
    buildServices(config, state, images, { operations, blockStorage, hosts: locker }, log),
    (app) => app.close(),
  );
  const url = await listen(api, config);
  await keepLogin(state, url);
  const owned = undo.move();
  const { lost, paths } = state;
  return { url, cloudsFile: paths.clouds, lost, [Symbol.asyncDispose]: () => owned.disposeAsync() };
}

type SeenTo = {
  readonly config: Config;
  readonly db: State['db'];
  readonly hosts: Hosts;
  readonly follower: HostFollower;
  readonly locker: HostLocker;
  readonly log: Logger;
};

/** Puts this machine in order and follows it. What is returned is to be done once operations go on. */
async function takeUpLocal(agent: LocalHostAgent, seenTo: SeenTo, undo: AsyncDisposableStack) {
  const { config, db, hosts, follower, locker, log } = seenTo;
  const name = config.DEFAULT.host as HostName;
  await agent.lockStrays();
  const { bootId } = await hosts.addLocal(name, agent);
  if (config.DEFAULT.resume_guests_state_on_host_boot && !(await agent.isLockedDown())) {
    follower.startAgain(await activeBeforeBoot(db, name, bootId));
  }
  // Nobody waits for it: what it could not do, the first server does, or fails with its reason.
  agent
    .prepare()
    .catch((error: unknown) => log.warn({ err: error }, `preparing the host failed: ${describeError(error)}`));
  undo.defer(follower.follow(name, agent));
  return async () => {
    await follower.reconcile(name, agent);
    // Only now: until every server is being seen to, the next start has to begin again.
    await recordBoot(db, name, bootId);
    follower.startAgain([]);
    await finishLocking(locker, name, log);
  };
}

/** Follows the hosts on other machines, now and whenever they come back. */
async function takeUpEnrolled({ hosts, follower, locker, log }: SeenTo): Promise<void> {
  hosts.follow((name, agent) => {
    const unfollow = follower.follow(name, agent);
    // A lock that the loss of the host cut short goes on.
    const unlisten = agent.onEvent(({ kind }) => {
      if (kind === 'look-again') void finishLocking(locker, name, log);
    });
    return () => {
      unfollow();
      unlisten();
    };
  });
  for (const { name, agent } of hosts.connected()) {
    // One that is lost this moment is looked at again when it is back.
    await follower.reconcile(name, agent).catch((error: unknown) => log.warn(describeError(error)));
    await finishLocking(locker, name, log);
  }
}

/** When that fails the host stays closed: servers are served, and none can be started. */
async function finishLocking(locker: HostLocker, host: HostName, log: Logger): Promise<void> {
  const tell = (line: string) => log.warn({ host }, `locking host ${host}: ${line}`);
  await locker.finish(host, 'req-nightlatch-lock', tell).catch((error: unknown) => {
    log.error({ host, err: error }, `locking host ${host} failed: ${describeError(error)}`);
  });
}

type Operations = {
  readonly operations: DurableServerOperations;
  readonly blockStorage: BlockStorageOperations;
  readonly hosts: HostLocker;
};

function buildServices(
  config: Config,
  { db }: State,
  images: FileImageStore,
  { operations, blockStorage, hosts }: Operations,
  log: Logger,
): FastifyInstance {
  const identity = new BuiltinIdentity(db, { tokenLifetimeSeconds: config.token.expiration });
  const publicUrl = config.api.public_url === '' ? null : config.api.public_url;
  const defaultVolumeType = config.DEFAULT.default_volume_type;
  const common = { db, identity, images, publicUrl, defaultVolumeType };
  const services = Object.values(catalogServices);
  return buildApi({
    services: [
      identityService({ db, identity, services, region: REGION, publicUrl }),
      imageService({ db, identity, images, publicUrl }),
      computeService({ ...common, operations, ...blockStorage }),
      blockStorageService({ ...common, ...blockStorage, canForceUpload: config.DEFAULT.enable_force_upload }),
      operatorService({ db, identity, hosts }),
    ],
    publicUrl,
    logger: log,
  });
}

async function listen(api: FastifyInstance, config: Config): Promise<string> {
  const { address: host, port: wanted } = splitAddress(config.api.listen);
  await api.listen({ host, port: wanted });
  const { port } = api.server.address() as AddressInfo;
  return config.api.public_url || `http://${host.includes(':') ? `[${host}]` : host}:${port}`;
}

/** The login is durable before the password works; at later starts only the address in it may change. */
async function keepLogin(state: State, url: string): Promise<void> {
  const authUrl = `${url}/identity/v3`;
  const made = await bootstrapIdentity(state.db, (admin) => writeCloudsYaml(state.paths.clouds, { ...admin, authUrl }));
  if (made === null) await updateAuthUrl(state.paths.clouds, authUrl);
}
