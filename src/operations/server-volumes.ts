import { setTimeout as sleep } from 'node:timers/promises';
import { NightlatchError } from '#core/errors.ts';
import { type AttachmentId, type HostName, newId, type ServerId, type VolumeId } from '#core/ids.ts';
import type { Queryable } from '#db/database.ts';
import { disksOf } from '#db/disks.ts';
import { failureOf } from '#db/messages.ts';
import type { PendingOperation } from '#db/tables/columns.ts';
import { attachmentsToServer, insertAttachment, updateAttachment } from '#db/volume-attachments.ts';
import { findVolume, lockVolume, updateVolume, type Volume } from '#db/volumes.ts';
import { checkNotTakenOver, type OperationContext, type ServerInput } from '#operations/context.ts';
import { chooseDevice, isOwnDevice, ownDevices, ROOT_DEVICE } from '#operations/device-names.ts';
import type { Step } from '#operations/engine.ts';
import { letVolumesGo } from '#operations/let-volumes-go.ts';
import { lockSource, planVolume } from '#operations/plan-volume.ts';
import type { Requester, ServerRequest, ServerVolume } from '#operations/server-operations.ts';

/** What a server that is created has to do with volumes. */

/** How often a server looks whether its volumes are made. */
const LOOK_EVERY_MS = 250;

/**
 * Takes the volumes that a new server is to have, and writes the rows of those that are made for it. Returns the
 * operations that make them. Until the server is made its volumes are `attaching`, its attachments `reserved`.
 * @throws block-device (400) when a volume cannot be had; what admitting a new one throws.
 */
export async function planServerVolumes(
  tx: Queryable,
  serverId: ServerId,
  { volumes, image }: Pick<ServerRequest, 'volumes' | 'image'>,
  requester: Requester,
): Promise<PendingOperation[]> {
  const own = (await disksOf(tx, serverId)).filter(isOwnDevice).length;
  const devices = nameDevices(volumes, own, image !== null);
  const begun: PendingOperation[] = [];
  // In one order for everybody: of two who want the same volumes none waits for the other for ever.
  const inOrder = volumes.toSorted(byVolume);
  for (const { from } of inOrder) if (from.kind === 'new') await lockSource(tx, from.request);
  for (const wanted of inOrder) {
    const { volume, operation } = await takeVolume(tx, wanted, requester);
    if (operation) begun.push(operation);
    await insertAttachment(tx, {
      id: newId<AttachmentId>(),
      volume_id: volume.id,
      server_id: serverId,
      status: 'reserved',
      device: devices.get(wanted) ?? null,
      delete_on_termination: wanted.deleteOnTermination,
      boot_index: wanted.bootIndex,
    });
  }
  return begun;
}

/** Those that are there, then those that are made, by what they are made from. */
function byVolume({ from: a }: ServerVolume, { from: b }: ServerVolume): number {
  return lockOrder(a).localeCompare(lockOrder(b));
}

function lockOrder(from: ServerVolume['from']): string {
  if (from.kind !== 'new') return `0 ${from.id}`;
  const { source } = from.request;
  return source.kind === 'blank' ? '1' : `1 ${source.id}`;
}

async function takeVolume(tx: Queryable, { from }: ServerVolume, requester: Requester) {
  if (from.kind === 'new') return await planVolume(tx, from.request, requester, from.admit);
  const volume = await lockVolume(tx, from.id);
  if (volume.status !== 'available' || volume.operation !== null) {
    const reason = `volume '${volume.id}' status must be 'available'. Currently in '${volume.status}'`;
    throw new NightlatchError('block-device', { reason });
  }
  await updateVolume(tx, volume.id, { status: 'attaching', previous_status: null });
  return { volume, operation: null };
}

/** Wished for names first, then the others beside the server's own disks. The one it boots from is the first. */
function nameDevices(volumes: readonly ServerVolume[], own: number, hasRootDisk: boolean) {
  const names = new Map<ServerVolume, string>();
  const taken = new Set<string>(hasRootDisk ? [ROOT_DEVICE] : []);
  const give = (volume: ServerVolume, wished: string | null) => {
    const device = chooseDevice(taken, wished);
    names.set(volume, device);
    taken.add(device);
  };
  for (const volume of volumes.filter(({ bootIndex }) => bootIndex === 0)) give(volume, ROOT_DEVICE);
  const others = volumes.filter((volume) => !names.has(volume));
  for (const volume of others.filter(({ device }) => device !== null)) give(volume, volume.device);
  const theirs = new Set(names.values());
  for (const device of ownDevices(own, theirs)) taken.add(device);
  for (const volume of others.filter(({ device }) => device === null)) give(volume, null);
  return names;
}

/** Waits until the volumes of a server are made. Undo: they are given back, or deleted where its user wished that. */
export function awaitVolumes(context: OperationContext): Step<ServerInput> {
  return {
    name: 'await-volumes',
    async run(input) {
      for (const { volume_id } of await attachmentsToServer(context.db, input.serverId)) {
        const volume = await made(context, input, volume_id);
        if (volume?.status === 'attaching') continue;
        throw notMade(volume_id, volume, await failureOf(context.db, volume_id));
      }
    },
    undo: (input) => letVolumesGo(context, input),
  };
}

/** One whose creation the engine does not know yet, after a crash, has not ended. */
async function made(context: OperationContext, input: ServerInput, id: VolumeId): Promise<Volume | null> {
  for (;;) {
    const volume = await findVolume(context.db, id);
    if (volume?.status !== 'creating' || volume.operation === null) return volume;
    await checkNotTakenOver(context, input);
    await sleep(LOOK_EVERY_MS);
  }
}

/** In the words of Nova's VolumeNotCreated. */
function notMade(id: VolumeId, volume: Volume | null, failure: string | null): Error {
  const status = volume === null || volume.deleted_at !== null ? 'deleted' : volume.status;
  const reason = `Volume ${id} did not finish being created. And its status is ${status}.`;
  return new NightlatchError('block-device', { reason: failure === null ? reason : `${reason} ${failure}` });
}

/** From here on the server's guest has its volumes when it runs. Undo: it has not, and they are still its own. */
export function attachVolumes({ db }: OperationContext): Step<ServerInput> {
  const become = (status: 'attaching' | 'reserved') => (input: ServerInput) =>
    db.transaction().execute(async (tx) => {
      for (const { id } of await attachmentsToServer(tx, input.serverId)) await updateAttachment(tx, id, { status });
    });
  return { name: 'attach-volumes', run: become('attaching'), undo: become('reserved') };
}

/** The volumes of a new server are in-use. *Repeat*: fine. */
export async function finishAttaching({ db }: OperationContext, serverId: ServerId): Promise<void> {
  await db.transaction().execute(async (tx) => {
    for (const { id, volume_id, status } of await attachmentsToServer(tx, serverId)) {
      if (status !== 'attaching') continue;
      const { status: is } = await lockVolume(tx, volume_id);
      await updateAttachment(tx, id, { status: 'attached', attached_at: new Date() });
      if (is === 'attaching') await updateVolume(tx, volume_id, { status: 'in-use' });
    }
  });
}

/** The host that a server's volumes lie on; null: it has none that has its place. @throws no-valid-host when several. */
export async function hostOfVolumes(db: Queryable, serverId: ServerId): Promise<HostName | null> {
  const hosts = new Set<HostName>();
  for (const { volume_id } of await attachmentsToServer(db, serverId)) {
    const host = (await findVolume(db, volume_id))?.host;
    if (host) hosts.add(host);
  }
  if (hosts.size <= 1) return [...hosts][0] ?? null;
  const reason = `The volumes of server ${serverId} lie on different hosts (${[...hosts].sort().join(', ')}), and volumes are served to servers on their own host only.`;
  throw new NightlatchError('no-valid-host', { reason });
}
