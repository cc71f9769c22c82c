import type { Duplex } from 'node:stream';
import { NightlatchError } from '#core/errors.ts';
import { type DiskId, type ImageId, newId, type ServerId } from '#core/ids.ts';
import { answersOnConsole, type ServerAction, serverActions } from '#core/server.ts';
import { insertDisks, type NewDisk } from '#db/disks.ts';
import { claimServer, findServer, insertServer, type Server, type ServerReplacement, stateOf } from '#db/servers.ts';
import type { PendingOperation } from '#db/tables/columns.ts';
import type { OperationContext, Particulars, ServerInput } from '#operations/context.ts';
import { createImage } from '#operations/create-image.ts';
import { createServer } from '#operations/create-server.ts';
import { deleteServer } from '#operations/delete-server.ts';
import { type Engine, type Operation, pendingOn } from '#operations/engine.ts';
import { offloadServer } from '#operations/offload-server.ts';
import { planImage } from '#operations/plan-image.ts';
import { plannedDisks } from '#operations/planned-disks.ts';
import {
  pauseServer,
  rebootServer,
  settleServer,
  startServer,
  stopServer,
  unpauseServer,
} from '#operations/power-server.ts';
import { rebuildServer } from '#operations/rebuild-server.ts';
import { recordAction } from '#operations/record-action.ts';
import { rescueServer, unrescueServer } from '#operations/rescue-server.ts';
import { confirmResize, resizeServer, revertResize } from '#operations/resize-server.ts';
import { resumeServer } from '#operations/resume-server.ts';
import type { Actor, ImageRequest, Requester, ServerOperations, ServerRequest } from '#operations/server-operations.ts';
import { planServerVolumes } from '#operations/server-volumes.ts';
import { shelveServer, shelveVolumeServer } from '#operations/shelve-server.ts';
import { suspendServer } from '#operations/suspend-server.ts';
import { unshelveServer } from '#operations/unshelve-server.ts';

const operationOf = {
  start: 'start-server',
  stop: 'stop-server',
  suspend: 'suspend-server',
  resume: 'resume-server',
  pause: 'pause-server',
  unpause: 'unpause-server',
  'reboot-soft': 'reboot-server-soft',
  'reboot-hard': 'reboot-server-hard',
  rescue: 'rescue-server',
  unrescue: 'unrescue-server',
  resize: 'resize-server',
  'confirm-resize': 'confirm-resize',
  'revert-resize': 'revert-resize',
  rebuild: 'rebuild-server',
  'create-image': 'create-image',
  shelve: 'shelve-server',
  'shelve-offload': 'shelve-offload-server',
  unshelve: 'unshelve-server',
  delete: 'delete-server',
  settle: 'settle-server',
} as const satisfies Record<ServerAction, string>;

/** Every operation on servers, for the engine to know before it launches. */
export function serverOperations(context: OperationContext): Operation<ServerInput>[] {
  return [
    createServer(context),
    startServer(context),
    stopServer(context),
    settleServer(context),
    suspendServer(context),
    resumeServer(context),
    pauseServer(context),
    unpauseServer(context),
    rebootServer(context, 'soft'),
    rebootServer(context, 'hard'),
    rescueServer(context),
    unrescueServer(context),
    resizeServer(context),
    confirmResize(context),
    revertResize(context),
    rebuildServer(context),
    createImage(context),
    shelveServer(context),
    shelveVolumeServer(context),
    offloadServer(context),
    unshelveServer(context),
    deleteServer(context),
  ];
}

/**
 * Sets operations going on the durable engine. The server's row names the pending operation before the engine does, so
 * that a crash in between loses nothing: the next start starts what the row names.
 */
export class DurableServerOperations implements ServerOperations {
  readonly #context: OperationContext;
  readonly #engine: Engine;

  constructor(context: OperationContext, engine: Engine) {
    this.#context = context;
    this.#engine = engine;
  }

  async create(request: ServerRequest, requester: Requester): Promise<Server> {
    const id = newId<ServerId>();
    const operation = pending('create-server', id, requester.requestId, null);
    const { server, begun } = await this.#context.db.transaction().execute(async (tx) => {
      const inserted = await insertServer(tx, {
        ...serverColumns(request, requester),
        id,
        vm_state: 'building',
        task_state: 'scheduling',
        power_state: 'nostate',
        host: null,
        fault: null,
        operation: JSON.stringify(operation),
        updated_at: new Date(),
      });
      await insertDisks(tx, newDisks(id, request, requester));
      await recordAction(tx, 'create', id, operation, requester);
      return { server: inserted, begun: await planServerVolumes(tx, id, request, requester) };
    });
    await this.#engine.begin(...begun, operation);
    return server;
  }

  async act(
    action: ServerAction,
    serverId: ServerId,
    requester: Actor,
    particulars: Particulars = {},
    replacement: ServerReplacement | null = null,
  ): Promise<void> {
    const imageId = newId<ImageId>();
    const claim = await claimServer(
      this.#context.db,
      serverId,
      action,
      (underWay, { shelved_image_id, image_id }) => {
        const hasRootDisk = image_id !== null;
        if (action === 'shelve' && !hasRootDisk) {
          return pending('shelve-volume-server', serverId, requester.requestId, underWay?.id ?? null, particulars);
        }
        const image = action === 'shelve' ? imageId : shelved_image_id;
        const all = image === null ? particulars : { ...particulars, imageId: image };
        return pending(operationOf[action], serverId, requester.requestId, underWay?.id ?? null, all);
      },
      replacement,
      async (tx, server, claimed) => {
        await recordAction(tx, serverActions[action].novaName, serverId, claimed, requester);
        if (action === 'shelve' && server.image_id !== null) await planImage(tx, server, imageId, shelvedImage(server));
      },
    );
    await this.#engine.begin(claim);
    if (action === 'delete') await this.#awaitIfUnplaced(serverId, claim);
  }

  async createImage(serverId: ServerId, request: ImageRequest, requester: Requester): Promise<ImageId> {
    const imageId = newId<ImageId>();
    const claim = await claimServer(
      this.#context.db,
      serverId,
      'create-image',
      (underWay) => pending('create-image', serverId, requester.requestId, underWay?.id ?? null, { imageId }),
      null,
      async (tx, server, claimed) => {
        await recordAction(tx, 'createImage', serverId, claimed, requester);
        await planImage(tx, server, imageId, request);
      },
    );
    await this.#engine.begin(claim);
    return imageId;
  }

  /**
   * A server that no host has is gone when its delete is answered, as in Nova: clients that wait for the end take an
   * ERROR they still see for the failure of the delete.
   */
  async #awaitIfUnplaced(serverId: ServerId, claim: PendingOperation): Promise<void> {
    if ((claim.input as ServerInput).after !== null) return;
    const server = await findServer(this.#context.db, serverId);
    if (server?.host === null) await this.#engine.settled(claim.id);
  }

  outcomes(operations: readonly string[]) {
    return this.#engine.outcomes(operations);
  }

  async consoleLog(server: Server, bytes: number): Promise<Buffer> {
    if (server.host === null) return Buffer.alloc(0);
    return await this.#context.agent(server.host).consoleLog(server.id, bytes);
  }

  async openConsole(server: Server): Promise<Duplex> {
    if (server.host === null || !answersOnConsole(stateOf(server))) {
      const details = { action: 'get_serial_console', id: server.id, attribute: 'vm_state', state: server.vm_state };
      throw new NightlatchError('server-state', details);
    }
    return await this.#context.agent(server.host).openConsole(server.id);
  }
}

/** See Nova's `shelve`. */
function shelvedImage({ name }: Server): ImageRequest {
  return { name: `${name.slice(0, 255 - '-shelved'.length)}-shelved`, properties: {}, encryption: 'new' };
}

function pending(
  name: string,
  serverId: ServerId,
  requestId: string,
  after: string | null,
  particulars: Particulars = {},
): PendingOperation {
  return pendingOn<ServerInput>(name, { ...particulars, serverId, requestId, after });
}

/** A server's row, as far as the request says what is in it. */
export function serverColumns(request: ServerRequest, requester: Requester) {
  return {
    project_id: requester.projectId,
    user_id: requester.userId,
    name: request.name,
    description: request.description,
    image_id: request.image?.id ?? null,
    flavor: JSON.stringify(request.flavor),
    metadata: JSON.stringify(request.metadata),
    tags: [...request.tags],
    user_data: request.userData,
    config_drive: request.configDrive,
    network: request.network,
    key_name: request.key?.name ?? null,
    public_key: request.key?.publicKey ?? null,
    hostname: request.hostname,
    launch_index: request.launchIndex,
    disk_config: request.diskConfig,
    access_ipv4: request.accessIpv4,
    access_ipv6: request.accessIpv6,
    reservation_id: request.reservationId,
  };
}

/** The rows of a new server's disks; where they go is still to be chosen. */
function newDisks(serverId: ServerId, request: ServerRequest, requester: Requester): NewDisk[] {
  const { flavor, image, intent, configDrive } = request;
  const wanted = { flavor, imageId: image?.id ?? null, imageBytes: image?.virtualSizeBytes ?? 0, configDrive };
  return plannedDisks(wanted).map(({ role, ordinal, sizeBytes, imageId }) => ({
    id: newId<DiskId>(),
    owner_id: serverId,
    project_id: requester.projectId,
    role,
    ordinal,
    size_bytes: sizeBytes,
    storage: null,
    encrypted: intent.encrypted,
    encryption: intent.format,
    image_id: imageId,
    host: null,
    state: 'absent',
    secret_id: null,
  }));
}
