import { type Disk, memoryStorage } from '#core/disk.ts';
import { type DiskId, newId } from '#core/ids.ts';
import { MIB } from '#core/sizes.ts';
import { insertDisks } from '#db/disks.ts';
import { listHosts } from '#db/hosts.ts';
import {
  finish,
  finishWithFault,
  guestDisks,
  loadPlaced,
  type OperationContext,
  openDisks,
  type ServerInput,
  savedMemory,
} from '#operations/context.ts';
import type { Operation } from '#operations/engine.ts';
import { createDisks, stopGuest, storeKeys } from '#operations/steps.ts';

/** Room beside the guest's memory for device state and libvirt's own header; the file is sparse. */
const SAVE_OVERHEAD_BYTES = 256 * MIB;

const isMemory = (disk: Disk) => disk.role === 'memory';

/**
 * Suspend server: its memory is saved onto a disk of its own, encrypted when any disk that the guest has is.
 *
 * | step         | effect                                        | compensation                     | a repeat             |
 * |--------------|-----------------------------------------------|----------------------------------|----------------------|
 * | plan-memory  | a row for the memory disk                     | none: store-keys ends the row    | keeps the row        |
 * | store-keys   | its secret is stored                          | secret destroyed, row ended      | keeps the secret     |
 * | create-disks | its medium is formatted                       | header overwritten, medium gone  | starts over          |
 * | save         | memory on it, guest gone, everything locked   | none: a failed save leaves the guest running | saves again, or finds it saved |
 * | stop         | all disks locked, leases closed               | none                             | fine                 |
 * | finish       | SUSPENDED                                     | –                                | same                 |
 */
export function suspendServer(context: OperationContext): Operation<ServerInput> {
  return {
    name: 'suspend-server',
    steps: [
      { name: 'plan-memory', run: (input) => planMemory(context, input) },
      storeKeys(context, isMemory),
      createDisks(context, isMemory),
      { name: 'save', run: (input) => save(context, input), undo: (input) => closeMemoryLease(context, input) },
      stopGuest(context, 0),
      { name: 'finish', run: (input) => finish(context, input, { vm_state: 'suspended', power_state: 'shutdown' }) },
    ],
    failed: (input, failure) => finishWithFault(context, input, failure),
  };
}

async function planMemory(context: OperationContext, { serverId }: ServerInput): Promise<void> {
  const placed = await loadPlaced(context, serverId);
  const { server, disks } = placed;
  if (savedMemory(disks)) return;
  const host = (await listHosts(context.db)).find(({ name }) => name === server.host);
  if (!host) throw new Error(`server ${serverId} is on a host that is not known`);
  // What the guest knows of any of its disks is in its memory.
  const encryption = openDisks(placed).some((disk) => disk.encryption !== null)
    ? (guestDisks(disks).find((disk) => disk.encryption !== null)?.encryption ?? host.default_encryption_format)
    : null;
  await insertDisks(context.db, [
    {
      id: newId<DiskId>(),
      owner_id: serverId,
      project_id: server.project_id,
      role: 'memory',
      ordinal: 0,
      size_bytes: server.flavor.ramMib * MIB + SAVE_OVERHEAD_BYTES,
      storage: memoryStorage(guestDisks(disks)[0]?.storage ?? host.storage),
      encrypted: encryption !== null,
      encryption,
      image_id: null,
      host: server.host,
      state: 'absent',
      secret_id: null,
    },
  ]);
}

async function save(context: OperationContext, { serverId, requestId }: ServerInput): Promise<void> {
  const { disks, agent } = await loadPlaced(context, serverId);
  const memory = savedMemory(disks);
  if (!memory) throw new Error(`server ${serverId} has no disk for its memory`);
  await context.keys.lend([memory], 'suspend', requestId, (keys) =>
    agent.suspendServer(serverId, memory, keys.get(memory.id) ?? null),
  );
}

async function closeMemoryLease(context: OperationContext, { serverId, requestId }: ServerInput): Promise<void> {
  const { disks } = await loadPlaced(context, serverId);
  await context.keys.close(disks.filter(isMemory), requestId);
}
