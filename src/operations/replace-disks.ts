import type { Disk, DiskRole } from '#core/disk.ts';
import { requiredTraits } from '#core/encryption-intent.ts';
import { type DiskId, newId } from '#core/ids.ts';
import { checkGrowsOnly } from '#core/resize.ts';
import { GIB } from '#core/sizes.ts';
import type { Queryable } from '#db/database.ts';
import { type DiskRow, disksOf, exchangeDisks, insertDisks, nextGeneration, placeDisks } from '#db/disks.ts';
import { findServer, replaced, type Server, updateServer } from '#db/servers.ts';
import { hasEncryptedVolume } from '#db/volume-attachments.ts';
import { loadPlaced, type OperationContext, type ServerInput, showTask } from '#operations/context.ts';
import type { Step } from '#operations/engine.ts';
import { findRoom } from '#operations/find-room.ts';
import { disksToReplace, type PlannedDisk, plannedDisks } from '#operations/planned-disks.ts';
import { destroyDisks, endGuest, startGuest } from '#operations/steps.ts';

/** Steps of the operations that give a server other disks. See `docs/decisions/0008-disks-are-replaced.md`. */

export const isComing = (disk: Pick<Disk, 'standing'>) => disk.standing === 'coming';

/** Destroys what an operation before this one could neither finish nor take back. *Repeat*: fine. */
export function clearReplaced(context: OperationContext): Step<ServerInput> {
  return {
    name: 'clear',
    async run(input) {
      await updateServer(context.db, input.serverId, { old_flavor: null, old_vm_state: null });
      await destroyDisks(context, input, ({ standing }) => standing !== 'live');
    },
  };
}

/**
 * Makes sure that the server's host has room for what the server's replacement calls for, and writes down the rows of
 * the disks that come. *Repeat*: keeps the rows. Undo: the disks are destroyed, whatever has become of them.
 */
export function planDisks(context: OperationContext): Step<ServerInput> {
  return {
    name: 'plan',
    run: ({ serverId }) =>
      context.db.transaction().execute(async (tx) => {
        const server = await findServer(tx, serverId);
        const rows = await disksOf(tx, serverId);
        if (!server?.replacement || !server.host || rows.some(isComing)) return;
        const coming = comingDisks(server, rows, { isVolumeEncrypted: await hasEncryptedVolume(tx, serverId) });
        const host = await findRoom(tx, demandOf(server, coming), { ...server, host: server.host });
        for (const disk of coming) {
          const identity = { owner_id: serverId, role: disk.role, ordinal: disk.ordinal };
          await insertDisks(tx, [{ ...disk, generation: await nextGeneration(tx, identity) }]);
        }
        const { default_encryption_format: defaultFormat, undecided_encryption_format: undecidedFormat } = host;
        await placeDisks(tx, serverId, { host: host.name, storage: host.storage, defaultFormat, undecidedFormat });
      }),
    undo: (input) => destroyDisks(context, input, isComing),
  };
}

type ComingDisk = Omit<Parameters<typeof insertDisks>[1][number], 'generation'>;

/** Of a server that has no disk of its own to be like. */
type Besides = { readonly isVolumeEncrypted: boolean };

function comingDisks(server: Server, live: readonly DiskRow[], besides: Besides): ComingDisk[] {
  const { flavor, image_id: imageId, config_drive: configDrive } = replaced(server);
  const root = live.find(({ role }) => role === 'root');
  const { rebuild } = server.replacement ?? {};
  const imageBytes = rebuild?.imageBytes ?? root?.size_bytes ?? 0;
  const wanted = plannedDisks({ flavor, imageId, imageBytes, configDrive });
  const encryption = rebuild
    ? { encrypted: rebuild.intent.encrypted, encryption: rebuild.intent.format }
    : likeOwn(root ?? live.find(({ role }) => role !== 'memory'), besides);
  const rootBytes = imageId === null ? null : (root?.size_bytes ?? 0);
  if (!rebuild) checkGrowsOnly({ ...server.flavor, rootBytes }, flavor);
  const coming = rebuild ? wanted : disksToReplace(wanted, live).map(withoutImage);
  return coming.map(({ role, ordinal, sizeBytes, imageId: image_id }) => ({
    id: newId<DiskId>(),
    owner_id: server.id,
    project_id: server.project_id,
    role,
    ordinal,
    standing: 'coming',
    size_bytes: sizeBytes,
    storage: null,
    ...encryption,
    image_id,
    host: null,
    state: 'absent',
    secret_id: null,
  }));
}

/** What the guest knows of an encrypted volume lies nowhere in clear; of any other, its host says how its disks are. */
function likeOwn(own: DiskRow | undefined, { isVolumeEncrypted }: Besides) {
  if (own) return { encrypted: own.encrypted, encryption: own.encryption };
  return { encrypted: isVolumeEncrypted ? true : null, encryption: null };
}

/** A copy holds what the image gave; it does not start from it. */
function withoutImage(disk: PlannedDisk): PlannedDisk {
  return { ...disk, imageId: null };
}

/** What the server is to have, besides the disks it has already. */
function demandOf(server: Server, coming: readonly ComingDisk[]) {
  const { flavor } = replaced(server);
  const intent = server.replacement?.rebuild?.intent ?? { encrypted: false, format: null };
  return {
    traits: requiredTraits(intent),
    vcpus: flavor.vcpus,
    memoryMib: flavor.ramMib,
    diskGib: Math.ceil(coming.reduce((sum, disk) => sum + disk.size_bytes, 0) / GIB),
  };
}

/** The roles of the disks that a server has while its guest can run. */
export function wantedRoles(server: Pick<Server, 'flavor' | 'config_drive' | 'image_id'>): ReadonlySet<DiskRole> {
  const { flavor, config_drive: configDrive, image_id: imageId } = server;
  return new Set(plannedDisks({ flavor, imageId, imageBytes: 0, configDrive }).map(({ role }) => role));
}

/**
 * Ends the guest in its own time, so that its disks can be exchanged. Undo: it runs again if it ran, once its disks are
 * its own again.
 */
export function stopForExchange(context: OperationContext, task: Parameters<typeof showTask>[2]): Step<ServerInput> {
  return {
    name: 'stop',
    async run(input) {
      await showTask(context, input, task);
      await endGuest(context, input, context.shutdownTimeoutMs);
    },
    async undo(input) {
      const { server } = await loadPlaced(context, input.serverId);
      if (server.replacement !== null && ranBefore(server)) await startGuest(context).run(input);
    },
  };
}

/** Whether the guest was there when the operation began: its states are left as they were until it ends. */
function ranBefore({ vm_state, power_state }: Pick<Server, 'vm_state' | 'power_state'>): boolean {
  return vm_state === 'active' || (vm_state === 'error' && power_state === 'running');
}

/** Exchanges disks and columns as one. `change` writes the columns. */
export async function exchange(
  context: OperationContext,
  { serverId }: ServerInput,
  to: { readonly bringIn: 'coming' | 'kept'; readonly putAway: 'coming' | 'kept' },
  change: (tx: Queryable, server: Server) => Promise<Server | null>,
): Promise<void> {
  await context.db.transaction().execute(async (tx) => {
    const server = await tx.selectFrom('servers').selectAll().where('id', '=', serverId).forUpdate().executeTakeFirst();
    const changed = server ? await change(tx, server) : null;
    if (changed !== null) await exchangeDisks(tx, serverId, { ...to, wanted: wantedRoles(changed) });
  });
}

/** As `startGuest`, unless `isToRun` says that this server is to stay off. */
export function startIf(
  context: OperationContext,
  task: Parameters<typeof showTask>[2] | null,
  isToRun: (server: Server) => boolean,
): Step<ServerInput> {
  const start = startGuest(context);
  return {
    ...start,
    async run(input) {
      if (task !== null) await showTask(context, input, task);
      const { server } = await loadPlaced(context, input.serverId);
      if (isToRun(server)) await start.run(input);
    },
  };
}
