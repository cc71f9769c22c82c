import type { Disk, DiskContent } from '#core/disk.ts';
import { NightlatchError } from '#core/errors.ts';
import { applyReplacement, type Server, updateServer } from '#db/servers.ts';
import {
  contentOf,
  finish,
  finishWithFault,
  loadPlaced,
  type OperationContext,
  type ServerInput,
  showTask,
  stateOnHost,
} from '#operations/context.ts';
import type { Operation } from '#operations/engine.ts';
import { clearReplaced, exchange, isComing, planDisks, startIf, stopForExchange } from '#operations/replace-disks.ts';
import { createDisks, destroyDisks, endGuest, storeKeys } from '#operations/steps.ts';

/**
 * Resize server, on its host. When a disk that holds data changes, all that do are replaced by copies with keys of their
 * own, and the old ones kept until the resize is confirmed.
 *
 * | step         | effect                                           | compensation                       | a repeat       |
 * |--------------|--------------------------------------------------|------------------------------------|----------------|
 * | clear        | leftovers of an operation that failed are gone   | none                               | fine           |
 * | plan         | room found; rows of the disks that come          | they are destroyed, rows ended     | keeps the rows |
 * | store-keys   | their secrets are stored                         | secrets destroyed                  | keeps secrets  |
 * | stop         | guest ended, all disks locked, leases closed     | guest runs again, if it ran        | fine           |
 * | create-disks | media formatted, filled with what the old hold   | destroyed, leases closed           | starts over the unfinished one |
 * | exchange     | as one: new disks live, old kept; the new flavor | as one: the other way round        | fine           |
 * | start        | leases open, the guest runs, if it ran           | guest ended, locked, leases closed | finds it running |
 * | finish       | VERIFY_RESIZE                                    | –                                  | same           |
 *
 * When it fails, the server is as it was before, with a fault.
 */
export function resizeServer(context: OperationContext): Operation<ServerInput> {
  return {
    name: 'resize-server',
    steps: [
      clearReplaced(context),
      planDisks(context),
      storeKeys(context, isComing),
      stopForExchange(context, 'resize_migrating'),
      { ...createDisks(context, isComing, copyOf), undo: (input) => undoCopies(context, input) },
      { name: 'exchange', run: (input) => toNew(context, input), undo: (input) => backFromNew(context, input) },
      startIf(context, 'resize_finish', ({ old_vm_state }) => old_vm_state === 'active'),
      { name: 'finish', run: (input) => finishResized(context, input) },
    ],
    failed: (input, failure) => finishWithFault(context, input, failure),
  };
}

/** What the disk that it replaces holds, where that is the guest's data. */
function copyOf(server: Server, disk: Disk, disks: readonly Disk[]): DiskContent {
  const { role, ordinal } = disk;
  const from = disks.find((old) => old.standing === 'live' && old.role === role && old.ordinal === ordinal);
  return from && role !== 'swap' ? { kind: 'disk', from } : contentOf(server, disk);
}

/** A copy that failed leaves the lease of what was copied: the guest is off, so all leases can be closed. */
async function undoCopies(context: OperationContext, input: ServerInput): Promise<void> {
  await destroyDisks(context, input, isComing);
  await endGuest(context, input, 0);
}

async function toNew(context: OperationContext, input: ServerInput): Promise<void> {
  await showTask(context, input, 'resize_migrated');
  await exchange(context, input, { bringIn: 'coming', putAway: 'kept' }, async (tx, server) => {
    const flavor = server.replacement?.columns.flavor;
    if (!flavor) return null;
    const old = { old_flavor: JSON.stringify(server.flavor), old_vm_state: server.vm_state };
    await applyReplacement(tx, server, old);
    return { ...server, flavor };
  });
}

async function backFromNew(context: OperationContext, input: ServerInput): Promise<void> {
  await exchange(context, input, { bringIn: 'kept', putAway: 'coming' }, async (tx, server) => {
    const { old_flavor: flavor } = server;
    if (flavor === null) return null;
    const replacement = JSON.stringify({ columns: { flavor: server.flavor }, rebuild: null });
    const old = { old_flavor: null, old_vm_state: null };
    await updateServer(tx, server.id, { flavor: JSON.stringify(flavor), ...old, replacement });
    return { ...server, flavor };
  });
}

async function finishResized(context: OperationContext, input: ServerInput): Promise<void> {
  const { server } = await loadPlaced(context, input.serverId);
  const power_state = server.old_vm_state === 'active' ? 'running' : 'shutdown';
  await finish(context, input, { vm_state: 'resized', power_state, launched_at: new Date() });
}

/**
 * Confirm resize: the server stays as it is, and nothing is left of what it was.
 *
 * | step        | effect                                                  | compensation                  | a repeat |
 * |-------------|---------------------------------------------------------|-------------------------------|----------|
 * | forget-old  | the old flavor is forgotten                             | none: the point of no return  | fine     |
 * | destroy-old | old disks: headers overwritten, media and secrets gone  | none                          | fine     |
 * | finish      | ACTIVE, or SHUTOFF when the guest is off                | –                             | same     |
 *
 * When it fails, the server stays in VERIFY_RESIZE with a fault, and can be confirmed again but not be reverted.
 */
export function confirmResize(context: OperationContext): Operation<ServerInput> {
  return {
    name: 'confirm-resize',
    steps: [
      { name: 'forget-old', run: ({ serverId }) => updateServer(context.db, serverId, { old_flavor: null }) },
      { name: 'destroy-old', run: (input) => destroyDisks(context, input, ({ standing }) => standing === 'kept') },
      { name: 'finish', run: (input) => finishConfirmed(context, input) },
    ],
    failed: (input, failure) => finishWithFault(context, input, failure),
  };
}

async function finishConfirmed(context: OperationContext, input: ServerInput): Promise<void> {
  const { power_state } = await stateOnHost(context, input.serverId);
  const vm_state = power_state === 'running' ? 'active' : 'stopped';
  await finish(context, input, { vm_state, power_state: power_state ?? 'nostate', old_vm_state: null });
}

/**
 * Revert resize: the server is again what it was, with its disks as they were when the resize copied them. When none was
 * copied they keep what the guest wrote since.
 *
 * | step        | effect                                                     | compensation                       | a repeat |
 * |-------------|------------------------------------------------------------|------------------------------------|----------|
 * | stop        | guest ended, all disks locked, leases closed               | none: the fault says how it is     | fine     |
 * | exchange    | as one: old disks live again, new ones not; the old flavor | none: the point of no return       | fine     |
 * | destroy-new | new disks: headers overwritten, media and secrets gone     | none                               | fine     |
 * | start       | leases open, the guest runs, if it ran before the resize   | guest ended, locked, leases closed | finds it running |
 * | finish      | ACTIVE or SHUTOFF, as before the resize                    | –                                  | same     |
 */
export function revertResize(context: OperationContext): Operation<ServerInput> {
  return {
    name: 'revert-resize',
    steps: [
      { name: 'stop', run: (input) => stopForRevert(context, input) },
      { name: 'exchange', run: (input) => backToOld(context, input) },
      { name: 'destroy-new', run: (input) => destroyDisks(context, input, isComing) },
      startIf(context, null, ({ old_vm_state }) => old_vm_state === 'active'),
      { name: 'finish', run: (input) => finishReverted(context, input) },
    ],
    failed: async (input, failure) => {
      const { server } = await loadPlaced(context, input.serverId);
      if (server.old_flavor === null) await updateServer(context.db, input.serverId, { old_vm_state: null });
      await finishWithFault(context, input, failure);
    },
  };
}

/** The guest gets its time when what it writes is going to stay. */
async function stopForRevert(context: OperationContext, input: ServerInput): Promise<void> {
  const { server, disks } = await loadPlaced(context, input.serverId);
  if (server.old_flavor === null) {
    const reason = `The resize of server ${server.id} is being confirmed and cannot be reverted. Confirm it again.`;
    throw new NightlatchError('conflict', { reason });
  }
  const isReplaced = disks.some(({ role, standing }) => role === 'root' && standing === 'kept');
  await endGuest(context, input, isReplaced ? 0 : context.shutdownTimeoutMs);
}

async function backToOld(context: OperationContext, input: ServerInput): Promise<void> {
  await exchange(context, input, { bringIn: 'kept', putAway: 'coming' }, async (tx, server) => {
    const { old_flavor: flavor } = server;
    if (flavor === null) return null;
    await updateServer(tx, server.id, { flavor: JSON.stringify(flavor), old_flavor: null });
    return { ...server, flavor };
  });
}

async function finishReverted(context: OperationContext, input: ServerInput): Promise<void> {
  const { server } = await loadPlaced(context, input.serverId);
  const isActive = server.old_vm_state === 'active';
  const change = isActive
    ? ({ vm_state: 'active', power_state: 'running' } as const)
    : ({ vm_state: 'stopped', power_state: 'shutdown' } as const);
  await finish(context, input, { ...change, old_vm_state: null });
}
