import { NightlatchError } from '#core/errors.ts';

/** See OpenStack Compute "Server concepts", and `openstack-encryption` notes on state tables. */
export const vmStates = [
  'building',
  'active',
  'stopped',
  'paused',
  'suspended',
  'rescued',
  'resized',
  'shelved',
  'shelved_offloaded',
  'error',
  'deleted',
] as const;
export type VmState = (typeof vmStates)[number];

export const taskStates = [
  'scheduling',
  'block_device_mapping',
  'spawning',
  'powering-off',
  'powering-on',
  'suspending',
  'resuming',
  'pausing',
  'unpausing',
  'reboot_pending',
  'reboot_started',
  'rebooting',
  'rebooting_hard',
  'rescuing',
  'unrescuing',
  'resize_prep',
  'resize_migrating',
  'resize_migrated',
  'resize_finish',
  'resize_reverting',
  'resize_confirming',
  'rebuilding',
  'rebuild_block_device_mapping',
  'rebuild_spawning',
  'image_snapshot_pending',
  'image_snapshot',
  'image_pending_upload',
  'image_uploading',
  'shelving',
  'shelving_image_pending_upload',
  'shelving_image_uploading',
  'shelving_offloading',
  'unshelving',
  'deleting',
] as const;
export type TaskState = (typeof taskStates)[number];

/** Nova's power states (nova.compute.power_state). */
export const powerStates = { nostate: 0, running: 1, paused: 3, shutdown: 4, crashed: 6, suspended: 7 } as const;
export type PowerState = keyof typeof powerStates;

/** What may be asked of an existing server. `settle` is ours: guest and state disagree, look and mend. */
export type ServerAction =
  | 'start'
  | 'stop'
  | 'suspend'
  | 'resume'
  | 'pause'
  | 'unpause'
  | 'reboot-soft'
  | 'reboot-hard'
  | 'rescue'
  | 'unrescue'
  | 'resize'
  | 'confirm-resize'
  | 'revert-resize'
  | 'rebuild'
  | 'create-image'
  | 'shelve'
  | 'shelve-offload'
  | 'unshelve'
  | 'delete'
  | 'settle';

type Rule = {
  readonly from: readonly VmState[];
  /** Task states in which the action is allowed besides none. */
  readonly alsoDuring?: readonly TaskState[];
  readonly task: TaskState;
  /** Nova's name for the action in its error text. */
  readonly novaName: string;
};

export const serverActions: Readonly<Record<ServerAction, Rule>> = {
  start: { from: ['stopped'], task: 'powering-on', novaName: 'start' },
  stop: { from: ['active', 'error'], task: 'powering-off', novaName: 'stop' },
  suspend: { from: ['active'], task: 'suspending', novaName: 'suspend' },
  resume: { from: ['suspended'], task: 'resuming', novaName: 'resume' },
  pause: { from: ['active'], task: 'pausing', novaName: 'pause' },
  unpause: { from: ['paused'], task: 'unpausing', novaName: 'unpause' },
  'reboot-soft': { from: ['active'], task: 'rebooting', novaName: 'reboot' },
  'reboot-hard': {
    from: ['active', 'stopped', 'paused', 'suspended', 'error'],
    alsoDuring: ['rebooting', 'rebooting_hard', 'resuming', 'pausing', 'unpausing', 'suspending'],
    task: 'rebooting_hard',
    novaName: 'reboot',
  },
  rescue: { from: ['active', 'stopped', 'error'], task: 'rescuing', novaName: 'rescue' },
  unrescue: { from: ['rescued'], task: 'unrescuing', novaName: 'unrescue' },
  resize: { from: ['active', 'stopped'], task: 'resize_prep', novaName: 'resize' },
  'confirm-resize': { from: ['resized'], task: 'resize_confirming', novaName: 'confirmResize' },
  'revert-resize': { from: ['resized'], task: 'resize_reverting', novaName: 'revertResize' },
  rebuild: { from: ['active', 'stopped', 'error'], task: 'rebuilding', novaName: 'rebuild' },
  'create-image': {
    from: ['active', 'stopped', 'paused', 'suspended'],
    task: 'image_snapshot_pending',
    novaName: 'createImage',
  },
  shelve: { from: ['active', 'stopped', 'paused', 'suspended'], task: 'shelving', novaName: 'shelve' },
  'shelve-offload': { from: ['shelved'], task: 'shelving_offloading', novaName: 'shelveOffload' },
  unshelve: { from: ['shelved', 'shelved_offloaded'], task: 'unshelving', novaName: 'unshelve' },
  delete: {
    from: vmStates.filter((state) => state !== 'deleted'),
    alsoDuring: taskStates.filter((task) => task !== 'deleting'),
    task: 'deleting',
    novaName: 'delete',
  },
  settle: {
    from: ['active', 'paused', 'stopped', 'suspended', 'rescued', 'resized', 'shelved', 'error'],
    task: 'powering-off',
    novaName: 'stop',
  },
};

/** @throws server-state (409) with Nova's text when the action is not allowed now. */
export function checkServerAction(
  action: ServerAction,
  server: { readonly id: string; readonly vmState: VmState; readonly taskState: TaskState | null },
): void {
  const rule = serverActions[action];
  if (!rule.from.includes(server.vmState)) {
    throw refused(rule.novaName, server.id, 'vm_state', server.vmState);
  }
  if (server.taskState !== null && !rule.alsoDuring?.includes(server.taskState)) {
    throw refused(rule.novaName, server.id, 'task_state', server.taskState);
  }
}

function refused(action: string, id: string, attribute: string, state: string): NightlatchError {
  return new NightlatchError('server-state', { action, id, attribute, state });
}

/** Whether what is written of a server says that its guest is there. Its keys may be on a host then, and only then. */
export function shouldRun(server: { readonly vmState: VmState; readonly powerState: PowerState }): boolean {
  switch (server.vmState) {
    case 'active':
    case 'paused':
      return true;
    // These say what the server is besides; its guest may end in them, and they stay.
    case 'rescued':
    case 'resized':
      return server.powerState === 'running' || server.powerState === 'paused';
    default:
      return false;
  }
}

/** Whether its guest answers on its console: it is there, and not paused. */
export function answersOnConsole(server: { readonly vmState: VmState; readonly powerState: PowerState }): boolean {
  return shouldRun(server) && server.powerState !== 'paused';
}

/** The status of a server in this state while nothing is done to it. See nova.api.openstack.common `_STATE_MAP`. */
const statusOf = {
  building: 'BUILD',
  active: 'ACTIVE',
  stopped: 'SHUTOFF',
  paused: 'PAUSED',
  suspended: 'SUSPENDED',
  rescued: 'RESCUE',
  resized: 'VERIFY_RESIZE',
  shelved: 'SHELVED',
  shelved_offloaded: 'SHELVED_OFFLOADED',
  error: 'ERROR',
  deleted: 'DELETED',
} as const satisfies Record<VmState, string>;

const rebuilding = { rebuilding: 'REBUILD', rebuild_block_device_mapping: 'REBUILD', rebuild_spawning: 'REBUILD' };
const resizing = {
  resize_prep: 'RESIZE',
  resize_migrating: 'RESIZE',
  resize_migrated: 'RESIZE',
  resize_finish: 'RESIZE',
};
const rebootingHard = { rebooting_hard: 'HARD_REBOOT' };

/** Where a task shows in the status, by the state it began in. */
const statusDuring: Readonly<Partial<Record<VmState, Readonly<Partial<Record<TaskState, string>>>>>> = {
  active: {
    ...rebootingHard,
    ...{ rebooting: 'REBOOT', reboot_pending: 'REBOOT', reboot_started: 'REBOOT' },
    ...rebuilding,
    ...resizing,
  },
  stopped: { ...rebootingHard, ...rebuilding, ...resizing },
  paused: rebootingHard,
  suspended: rebootingHard,
  resized: { resize_reverting: 'REVERT_RESIZE' },
  error: { ...rebootingHard, ...rebuilding },
};

/** The `status` a client sees. */
export function apiStatus(vmState: VmState, taskState: TaskState | null): string {
  return (taskState !== null && statusDuring[vmState]?.[taskState]) || statusOf[vmState];
}
