import type { Disk } from '#core/disk.ts';
import { NightlatchError } from '#core/errors.ts';
import { type DiskId, newId } from '#core/ids.ts';
import { roundUpToSector } from '#core/sizes.ts';
import { insertDisks, updateDisk } from '#db/disks.ts';
import { finish, finishWithFault, loadPlaced, type OperationContext, type ServerInput } from '#operations/context.ts';
import type { Operation } from '#operations/engine.ts';
import { cacheImages, createDisks, destroyDisks, startGuest, stopGuest, storeKeys } from '#operations/steps.ts';

const isRescue = (disk: Disk) => disk.role === 'rescue';

/**
 * Rescue server: its guest starts from a fresh disk made from an image, encrypted when its root disk is, with the root
 * disk second and the config drive last. The guest is stopped only when the rescue disk is ready.
 *
 * | step         | effect                                           | compensation                       | a repeat           |
 * |--------------|--------------------------------------------------|------------------------------------|--------------------|
 * | plan-rescue  | a row for the rescue disk, `coming`              | none: store-keys ends the row      | keeps the row      |
 * | store-keys   | its secret is stored                             | secret destroyed, row ended        | keeps the secret   |
 * | cache-image  | the image is on the host                         | none: a cache                      | finds it there     |
 * | create-disks | its medium is formatted and filled               | header overwritten, medium gone    | starts over        |
 * | stop         | guest ended, locked, leases closed               | the guest runs again, if it ran    | fine               |
 * | attach       | the rescue disk is `live`: the server is rescued | `coming` again                     | same               |
 * | start        | leases open on what is attached, the guest runs  | guest ended, locked, leases closed | finds it running   |
 * | finish       | RESCUE                                           | –                                  | same               |
 */
export function rescueServer(context: OperationContext): Operation<ServerInput> {
  return {
    name: 'rescue-server',
    steps: [
      { name: 'plan-rescue', run: (input) => planRescue(context, input) },
      storeKeys(context, isRescue),
      cacheImages(context, isRescue),
      createDisks(context, isRescue),
      { ...stopGuest(context, context.shutdownTimeoutMs), undo: (input) => startAgain(context, input) },
      {
        name: 'attach',
        run: (input) => stand(context, input, 'live'),
        undo: (input) => stand(context, input, 'coming'),
      },
      startGuest(context),
      { name: 'finish', run: (input) => finish(context, input, { vm_state: 'rescued', power_state: 'running' }) },
    ],
    failed: (input, failure) => finishWithFault(context, input, failure),
  };
}

/**
 * Unrescue server. The guest gets its time to shut down, because it may have the root disk open.
 *
 * | step          | effect                                               | compensation                       | a repeat         |
 * |---------------|------------------------------------------------------|------------------------------------|------------------|
 * | stop          | guest ended, all disks locked, leases closed         | none: still rescued, and shut down | fine             |
 * | destroy-disks | rescue disk: header overwritten, medium gone, secret destroyed | none                     | fine             |
 * | start         | leases open on the server's own disks, the guest runs | guest ended, locked, leases closed | finds it running |
 * | finish        | ACTIVE                                               | –                                  | same             |
 */
export function unrescueServer(context: OperationContext): Operation<ServerInput> {
  return {
    name: 'unrescue-server',
    steps: [
      stopGuest(context, context.shutdownTimeoutMs),
      { name: 'destroy-disks', run: (input) => destroyDisks(context, input, isRescue) },
      startGuest(context),
      { name: 'finish', run: (input) => finish(context, input, { vm_state: 'active', power_state: 'running' }) },
    ],
    failed: (input, failure) => finishWithFault(context, input, failure),
  };
}

async function planRescue(context: OperationContext, { serverId, image }: ServerInput): Promise<void> {
  const { server, disks } = await loadPlaced(context, serverId);
  const planned = disks.find(isRescue);
  if (planned?.standing === 'coming') return;
  if (planned) {
    const reason = `Server ${serverId} was made to look as if it were not rescued. Reboot it hard, then try again.`;
    throw new NightlatchError('conflict', { reason });
  }
  const root = disks.find(({ role, standing }) => role === 'root' && standing === 'live');
  if (!image || !root) throw new Error(`the rescue of server ${serverId} has no image, or no root disk`);
  await insertDisks(context.db, [
    {
      id: newId<DiskId>(),
      owner_id: serverId,
      project_id: server.project_id,
      role: 'rescue',
      ordinal: 0,
      standing: 'coming',
      size_bytes: roundUpToSector(image.virtualSizeBytes),
      storage: root.storage,
      encrypted: root.encryption !== null,
      encryption: root.encryption,
      image_id: image.id,
      host: server.host,
      state: 'absent',
      secret_id: null,
    },
  ]);
}

async function stand(context: OperationContext, { serverId }: ServerInput, standing: Disk['standing']): Promise<void> {
  const { disks } = await loadPlaced(context, serverId);
  for (const disk of disks.filter(isRescue)) await updateDisk(context.db, disk.id, { standing });
}

/** The server's row says what it was all the while. */
async function startAgain(context: OperationContext, input: ServerInput): Promise<void> {
  const { server } = await loadPlaced(context, input.serverId);
  if (server.vm_state === 'active') await startGuest(context).run(input);
}
