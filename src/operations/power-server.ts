import { shouldRun } from '#core/server.ts';
import { stateOf } from '#db/servers.ts';
import {
  finish,
  finishWithFault,
  guestOf,
  loadPlaced,
  type OperationContext,
  openDisks,
  type ServerInput,
  stateOnHost,
} from '#operations/context.ts';
import type { Operation, Step } from '#operations/engine.ts';
import {
  destroyBeside,
  endGuest,
  lockIfPaused,
  startGuest,
  stopGuest,
  takeOver,
  unlockPaused,
} from '#operations/steps.ts';

const STOPPED = { vm_state: 'stopped', power_state: 'shutdown' } as const;
const ACTIVE = { vm_state: 'active', power_state: 'running' } as const;

/**
 * Start server.
 *
 * | step   | effect                                  | compensation                       | a repeat          |
 * |--------|-----------------------------------------|------------------------------------|-------------------|
 * | start  | leases open, keys lent, the guest runs  | guest ended, locked, leases closed | finds it running  |
 * | finish | ACTIVE                                  | –                                  | same              |
 */
export function startServer(context: OperationContext): Operation<ServerInput> {
  return {
    name: 'start-server',
    steps: [startGuest(context), { name: 'finish', run: (input) => finish(context, input, ACTIVE) }],
    failed: (input, failure) => finishWithFault(context, input, failure),
  };
}

/**
 * Stop server: the guest gets its time to shut down, then it is ended.
 *
 * | step   | effect                                        | compensation | a repeat |
 * |--------|-----------------------------------------------|--------------|----------|
 * | stop   | guest ended, all disks locked, leases closed  | none: a stopped guest cannot be brought back | fine |
 * | finish | SHUTOFF                                       | –            | same     |
 */
export function stopServer(context: OperationContext): Operation<ServerInput> {
  return {
    name: 'stop-server',
    steps: [
      stopGuest(context, context.shutdownTimeoutMs),
      { name: 'finish', run: (input) => finish(context, input, STOPPED) },
    ],
    failed: (input, failure) => finishWithFault(context, input, failure),
  };
}

/**
 * Settle server: what its host shows and what is written disagreed when somebody looked. Nothing else happens to the
 * server meanwhile, so this look is the one that counts.
 *
 * | step   | effect                                                              | compensation | a repeat |
 * |--------|---------------------------------------------------------------------|--------------|----------|
 * | settle | a guest that should run and does is left alone; else as in stop     | none         | fine     |
 * | finish | the state its host finds it in; ERROR stays                         | –            | same     |
 */
export function settleServer(context: OperationContext): Operation<ServerInput> {
  return {
    name: 'settle-server',
    steps: [
      { name: 'settle', run: (input) => settle(context, input) },
      { name: 'finish', run: (input) => finishAsFound(context, input) },
    ],
    failed: (input, failure) => finishWithFault(context, input, failure),
  };
}

async function settle(context: OperationContext, input: ServerInput): Promise<void> {
  const placed = await loadPlaced(context, input.serverId);
  if (shouldRun(stateOf(placed.server)) && (await guestOf(placed)) !== null) return;
  await endGuest(context, input, 0);
}

async function finishAsFound(context: OperationContext, input: ServerInput): Promise<void> {
  const { server } = await loadPlaced(context, input.serverId);
  const found = await stateOnHost(context, input.serverId);
  await finish(context, input, server.vm_state === 'error' ? { power_state: found.power_state ?? 'nostate' } : found);
}

/**
 * Reboot server. Soft: the guest gets its time to shut down. Hard: it is ended, also out of a suspend or another
 * operation; saved memory and a rescue disk are given up, as in Nova.
 *
 * | step           | effect                                      | compensation                       | a repeat         |
 * |----------------|---------------------------------------------|------------------------------------|------------------|
 * | take-over      | waits for the operation it interrupts       | –                                  | fine             |
 * | stop           | guest ended, locked, leases closed          | none                               | fine             |
 * | destroy-memory | saved memory and rescue disk destroyed, if any (hard only) | none                | fine             |
 * | start          | leases open, the guest runs                 | guest ended, locked, leases closed | finds it running |
 * | finish         | ACTIVE                                      | –                                  | same             |
 */
export function rebootServer(context: OperationContext, kind: 'soft' | 'hard'): Operation<ServerInput> {
  const hard = kind === 'hard';
  return {
    name: `reboot-server-${kind}`,
    steps: [
      takeOver(context),
      stopGuest(context, hard ? 0 : context.shutdownTimeoutMs),
      ...(hard ? [destroyBeside(context)] : []),
      startGuest(context),
      { name: 'finish', run: (input) => finish(context, input, ACTIVE) },
    ],
    failed: (input, failure) => finishWithFault(context, input, failure),
  };
}

/**
 * Pause server: its virtual CPUs stop. Its keys stay on the host, under their leases, unless the host is configured to
 * forget them for that time.
 *
 * | step   | effect                                             | compensation                        | a repeat |
 * |--------|----------------------------------------------------|-------------------------------------|----------|
 * | pause  | CPUs stopped                                       | none: the fault says how it is      | fine     |
 * | lock   | where so configured: keys wiped, leases closed     | keys put back, the guest runs again | fine     |
 * | finish | PAUSED                                             | –                                   | same     |
 */
export function pauseServer(context: OperationContext): Operation<ServerInput> {
  return {
    name: 'pause-server',
    steps: [
      { name: 'pause', run: ({ serverId }) => pause(context, serverId) },
      lockPaused(context),
      { name: 'finish', run: (input) => finish(context, input, { vm_state: 'paused', power_state: 'paused' }) },
    ],
    failed: (input, failure) => finishWithFault(context, input, failure),
  };
}

/**
 * Unpause server.
 *
 * | step    | effect                                         | compensation              | a repeat |
 * |---------|------------------------------------------------|---------------------------|----------|
 * | unlock  | leases open and keys put back, where any are gone | keys wiped, leases closed | fine  |
 * | unpause | CPUs go on                                     | none: the fault says how it is | fine |
 * | finish  | ACTIVE                                         | –                         | same     |
 */
export function unpauseServer(context: OperationContext): Operation<ServerInput> {
  return {
    name: 'unpause-server',
    steps: [
      {
        name: 'unlock',
        run: (input) => unlockPaused(context, input, 'run'),
        undo: (input) => lockIfPaused(context, input),
      },
      {
        name: 'unpause',
        run: async ({ serverId }) => (await loadPlaced(context, serverId)).agent.unpauseServer(serverId),
      },
      { name: 'finish', run: (input) => finish(context, input, ACTIVE) },
    ],
    failed: (input, failure) => finishWithFault(context, input, failure),
  };
}

async function pause(context: OperationContext, serverId: ServerInput['serverId']): Promise<void> {
  const placed = await loadPlaced(context, serverId);
  await placed.agent.pauseServer(serverId, openDisks(placed));
}

function lockPaused(context: OperationContext): Step<ServerInput> {
  return {
    name: 'lock',
    run: (input) => lockIfPaused(context, input),
    async undo(input) {
      await unlockPaused(context, input, 'run');
      const placed = await loadPlaced(context, input.serverId);
      const isPaused = (await guestOf(placed))?.state === 'paused';
      if (isPaused) await placed.agent.unpauseServer(input.serverId);
    },
  };
}
