import { NightlatchError } from '#core/errors.ts';

/** See OpenStack Compute "Server concepts", and `openstack-encryption` notes on state tables. */
export const vmStates = ['building', 'active', 'stopped', 'paused', 'suspended', 'error', 'deleted'] as const;
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
  delete: {
    from: ['building', 'active', 'stopped', 'paused', 'suspended', 'error'],
    alsoDuring: taskStates.filter((task) => task !== 'deleting'),
    task: 'deleting',
    novaName: 'delete',
  },
  settle: { from: ['active', 'paused', 'stopped', 'suspended', 'error'], task: 'powering-off', novaName: 'stop' },
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

/** The `status` a client sees. See nova.api.openstack.common `_STATE_MAP`. */
export function apiStatus(vmState: VmState, taskState: TaskState | null): string {
  switch (vmState) {
    case 'building':
      return 'BUILD';
    case 'active':
      if (taskState === 'rebooting_hard') return 'HARD_REBOOT';
      if (taskState === 'rebooting' || taskState === 'reboot_pending' || taskState === 'reboot_started')
        return 'REBOOT';
      return 'ACTIVE';
    case 'stopped':
      return taskState === 'rebooting_hard' ? 'HARD_REBOOT' : 'SHUTOFF';
    case 'paused':
      return taskState === 'rebooting_hard' ? 'HARD_REBOOT' : 'PAUSED';
    case 'suspended':
      return taskState === 'rebooting_hard' ? 'HARD_REBOOT' : 'SUSPENDED';
    case 'error':
      return taskState === 'rebooting_hard' ? 'HARD_REBOOT' : 'ERROR';
    case 'deleted':
      return 'DELETED';
  }
}
