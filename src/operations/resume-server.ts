import { NightlatchError } from '#core/errors.ts';
import type { DiskKeys } from '#host/host-agent.ts';
import {
  finish,
  finishWithFault,
  loadPlaced,
  type OperationContext,
  openDisks,
  type ServerInput,
  savedMemory,
  serverSpec,
} from '#operations/context.ts';
import type { Operation } from '#operations/engine.ts';
import { destroySavedMemory, startGuest, withVolumesHeld } from '#operations/steps.ts';

/**
 * Resume server. The saved memory is destroyed while the guest is still paused, before its first instruction: no
 * memory is ever resumed twice over disks that have moved on.
 *
 * | step           | effect                                   | compensation                       | a repeat            |
 * |----------------|------------------------------------------|------------------------------------|---------------------|
 * | restore        | leases open, the guest is back, paused   | guest ended, locked, leases closed | finds it back       |
 * | destroy-memory | saved memory and its secret destroyed    | none: the point of no return       | fine                |
 * | unpause        | the guest runs                           | –                                  | fine                |
 * | finish         | ACTIVE                                   | –                                  | same                |
 */
export function resumeServer(context: OperationContext): Operation<ServerInput> {
  const { undo } = startGuest(context);
  return {
    name: 'resume-server',
    steps: [
      { name: 'restore', run: (input) => restore(context, input), ...(undo ? { undo } : {}) },
      destroySavedMemory(context),
      {
        name: 'unpause',
        run: async ({ serverId }) => (await loadPlaced(context, serverId)).agent.unpauseServer(serverId),
      },
      { name: 'finish', run: (input) => finish(context, input, { vm_state: 'active', power_state: 'running' }) },
    ],
    failed: (input, failure) => finishWithFault(context, input, failure),
  };
}

function restore(context: OperationContext, input: ServerInput): Promise<void> {
  return withVolumesHeld(context, input, async (placed) => {
    const memory = savedMemory(placed.disks);
    if (memory?.state !== 'formatted') {
      const reason = 'its saved memory is gone';
      throw new NightlatchError('saved-memory-unreadable', { server: input.serverId, reason });
    }
    const restoreWith = (keys: DiskKeys) => placed.agent.restoreServer(serverSpec(placed), memory, keys);
    await context.keys.lend([...openDisks(placed), memory], 'run', input.requestId, restoreWith);
    // The agent has locked the memory disk again.
    await context.keys.close([memory], input.requestId);
  });
}
