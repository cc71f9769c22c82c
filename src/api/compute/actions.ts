import type { FastifyReply, FastifyRequest } from 'fastify';
import type { RequestContext } from '#api/auth.ts';
import { catalogServices } from '#api/catalog.ts';
import type { ActionBody } from '#api/compute/action-schemas.ts';
import { consoleOutput } from '#api/compute/console-output.ts';
import { AVAILABILITY_ZONE } from '#api/compute/create-checks.ts';
import { imageRequestFrom } from '#api/compute/create-image.ts';
import { has, requireNotYet } from '#api/compute/microversions.ts';
import type { ComputeAction } from '#api/compute/policy.ts';
import { rebuild } from '#api/compute/rebuild.ts';
import type { Rebuild, Resize } from '#api/compute/replace-schemas.ts';
import { rescueServer } from '#api/compute/rescue.ts';
import { resize, revertResize } from '#api/compute/resize.ts';
import { deleteOnce, lockServer, resetState, unlockServer } from '#api/compute/server-changes.ts';
import { checkUnlocked } from '#api/compute/server-lookup.ts';
import type { ComputeServices } from '#api/compute/services.ts';
import { createVolumeImage } from '#api/compute/volume-image.ts';
import { publicUrlOf } from '#api/public-url.ts';
import { badRequest, NightlatchError } from '#core/errors.ts';
import type { ServerAction } from '#core/server.ts';
import type { Server } from '#db/servers.ts';

/** One action asked of a server that the caller may see. */
export type ActionCall = {
  readonly request: FastifyRequest;
  readonly reply: FastifyReply;
  readonly body: ActionBody;
  readonly context: RequestContext;
  readonly server: Server;
  readonly services: ComputeServices;
};

/** Who may do it, and what it does: unless it names another, the answer is 200 with a body, or 202 without. */
export type Action = {
  readonly policy: ComputeAction;
  readonly status?: 202 | 204;
  /** The answer says where the server is. */
  readonly isLocated?: true;
  readonly run: (call: ActionCall) => Promise<object | null>;
};

/** Actions that are served, by the name a client sends. See Compute API "Servers - run an action". */
export const actions: Readonly<Record<string, Action>> = {
  'os-start': operation('os_compute_api:servers:start', 'start'),
  'os-stop': operation('os_compute_api:servers:stop', 'stop'),
  suspend: operation('os_compute_api:os-suspend-server:suspend', 'suspend'),
  resume: operation('os_compute_api:os-suspend-server:resume', 'resume'),
  pause: operation('os_compute_api:os-pause-server:pause', 'pause'),
  unpause: operation('os_compute_api:os-pause-server:unpause', 'unpause'),
  reboot: {
    policy: 'os_compute_api:servers:reboot',
    run: async (call) => {
      const isHard = call.body.reboot?.type.toUpperCase() === 'HARD';
      return await start(call, isHard ? 'reboot-hard' : 'reboot-soft');
    },
  },
  rescue: { policy: 'os_compute_api:os-rescue', run: rescueServer },
  unrescue: operation('os_compute_api:os-unrescue', 'unrescue'),
  resize: {
    policy: 'os_compute_api:servers:resize',
    run: async (call) => {
      await resize(call, call.body.resize as Resize);
      return null;
    },
  },
  confirmResize: { ...operation('os_compute_api:servers:confirm_resize', 'confirm-resize'), status: 204 },
  revertResize: {
    policy: 'os_compute_api:servers:revert_resize',
    run: async (call) => {
      await revertResize(call);
      return null;
    },
  },
  rebuild: {
    policy: 'os_compute_api:servers:rebuild',
    status: 202,
    isLocated: true,
    run: (call) => rebuild(call, call.body.rebuild as Rebuild),
  },
  shelve: operation('os_compute_api:os-shelve:shelve', 'shelve'),
  shelveOffload: operation('os_compute_api:os-shelve:shelve_offload', 'shelve-offload'),
  unshelve: {
    policy: 'os_compute_api:os-shelve:unshelve',
    run: async (call) => {
      const { availability_zone: zone, host } = call.body.unshelve ?? {};
      if (host !== undefined) throw badRequest('Choosing the host of a server is not served. Leave out host.');
      if (zone && zone !== AVAILABILITY_ZONE) throw badRequest('The requested availability zone is not available');
      return await start(call, 'unshelve');
    },
  },
  createImage: {
    policy: 'os_compute_api:servers:create_image',
    status: 202,
    run: async (call) => {
      const { request, reply, body, services, server, context } = call;
      checkUnlocked(server, context);
      if (!body.createImage) throw badRequest("'createImage' is a required property");
      const wanted = imageRequestFrom(body.createImage, server, context);
      const id =
        server.image_id === null
          ? await createVolumeImage(call, wanted)
          : await services.operations.createImage(server.id, wanted, context);
      if (has(request, 'image-id-in-body')) return { image_id: id };
      reply.header(
        'location',
        `${publicUrlOf(request, services.publicUrl)}${catalogServices.image.path}/v2/images/${id}`,
      );
      return null;
    },
  },
  forceDelete: {
    policy: 'os_compute_api:servers:delete',
    run: async ({ services, server, context }) => {
      checkUnlocked(server, context);
      await deleteOnce(services, server.id, context);
      return null;
    },
  },
  lock: {
    policy: 'os_compute_api:os-lock-server:lock',
    run: async ({ request, body, services, server, context }) => {
      if (body.lock && !has(request, 'locked-reason')) {
        throw badRequest('Invalid input for field/attribute lock: a reason came with microversion 2.73.');
      }
      await lockServer(services.db, server, context, body.lock?.locked_reason ?? null);
      return null;
    },
  },
  unlock: {
    policy: 'os_compute_api:os-lock-server:unlock',
    run: async ({ services, server, context }) => {
      await unlockServer(services.db, server, context);
      return null;
    },
  },
  'os-resetState': {
    policy: 'os_compute_api:os-admin-actions:reset_state',
    run: async ({ body, services, server }) => {
      await resetState(services.db, server, body['os-resetState']?.state ?? 'error');
      return null;
    },
  },
  'os-getConsoleOutput': {
    policy: 'os_compute_api:os-console-output',
    run: async ({ body, services, server }) => {
      const length = Number(body['os-getConsoleOutput']?.length ?? -1);
      return { output: await consoleOutput(services.operations, server, length) };
    },
  },
  'os-getSerialConsole': {
    policy: 'os_compute_api:os-remote-consoles',
    run: async ({ request, services, server }) => {
      requireNotYet(request, 'remote-consoles');
      return { console: { type: 'serial', url: services.consoles.offer(request, server) } };
    },
  },
};

/** Actions that Compute has and that are not served: 501, as from a driver that cannot do them. */
export const unservedActions: ReadonlySet<string> = new Set([
  ...['migrate', 'os-migrateLive'],
  ...['createBackup', 'evacuate', 'restore', 'changePassword'],
  ...['os-getVNCConsole', 'os-getSPICEConsole', 'os-getRDPConsole', 'trigger_crash_dump', 'resetNetwork'],
  ...['addSecurityGroup', 'removeSecurityGroup', 'addFixedIp', 'removeFixedIp', 'addFloatingIp', 'removeFloatingIp'],
  'injectNetworkInfo',
]);

/** The refusal of one of those. */
export function notServed(name: string): NightlatchError {
  return new NightlatchError('not-implemented', { reason: `The requested functionality is not supported: ${name}.` });
}

function operation(policy: ComputeAction, action: ServerAction): Action {
  return { policy, run: (call) => start(call, action) };
}

async function start({ server, context, services }: ActionCall, action: ServerAction): Promise<null> {
  checkUnlocked(server, context);
  await services.operations.act(action, server.id, context);
  return null;
}
