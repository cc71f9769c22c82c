import type { RequestContext } from '#api/auth.ts';
import { NightlatchError, notFound, shorten } from '#core/errors.ts';
import { type AttachmentId, newId, type ServerId, type VolumeId } from '#core/ids.ts';
import type { AttachmentStatus, VolumeStatus } from '#core/volume.ts';
import type { Database, Queryable } from '#db/database.ts';
import {
  type Attachment,
  attachmentOf,
  endAttachment,
  findAttachment,
  insertAttachment,
  updateAttachment,
} from '#db/volume-attachments.ts';
import { lockVolume, updateVolume, type Volume } from '#db/volumes.ts';

/*
 * Attachments that a client writes down, in the part that Nova plays before Cinder: no guest of ours gets a volume by them,
 * and no key. As long as there is one, no server of ours gets the volume but the one that it was written down for.
 */

/** Another end of a volume, as its client describes it. */
export type WrittenAttachment = {
  /** The server it says it is for; null: it does not say. */
  readonly instance: string | null;
  readonly connector: Readonly<Record<string, unknown>>;
  readonly mode: 'rw' | 'ro';
  readonly device: string | null;
  readonly status: 'reserved' | 'attaching' | 'attached';
};

/** Statuses of a volume that it leaves with its attachment; another stays. `error` is what an admin calls a stuck one. */
const HELD: readonly VolumeStatus[] = ['reserved', 'attaching', 'in-use', 'detaching', 'error'];

/** What the volume's status is while its attachment has this one. */
const volumeStatusOf = { reserved: 'reserved', attaching: 'attaching', attached: 'in-use' } as const;

/** Statuses of a volume from which an attachment can be written down in this one. */
const startsFrom: Readonly<Record<WrittenAttachment['status'], readonly VolumeStatus[]>> = {
  reserved: ['available'],
  attaching: ['available'],
  // By os-attach, which Nova called last of several.
  attached: ['available', 'reserved', 'attaching'],
};

/** @throws volume-state; not-there (404) for a server that the caller does not see. */
export async function writeDown(
  db: Database,
  volumeId: VolumeId,
  context: RequestContext,
  { instance, connector, mode, device, status }: WrittenAttachment,
): Promise<Attachment> {
  return await db.transaction().execute(async (tx) => {
    const volume = await lockVolume(tx, volumeId);
    checkStatus(volume, 'attach', startsFrom[status]);
    if (instance !== null) await checkServer(tx, instance, context);
    const before = await attachmentOf(tx, volumeId);
    if (before) await endAttachment(tx, (await stillThere(tx, before.id)).id);
    await updateVolume(tx, volumeId, { status: volumeStatusOf[status] });
    return await insertAttachment(tx, {
      ...{ id: newId<AttachmentId>(), volume_id: volumeId, status, device, mode },
      // Kept apart from what a guest has: its server is in the connector only.
      server_id: null,
      connector: JSON.stringify({ ...connector, instance }),
      attached_at: status === 'attached' ? new Date() : null,
      boot_index: null,
    });
  });
}

/** Describes the other end of one that is reserved or attaching. @throws conflict (409) for what a server has. */
export function connect(
  db: Database,
  attachment: Attachment,
  connector: Readonly<Record<string, unknown>>,
): Promise<void> {
  const own = { ...connector, instance: attachment.connector?.instance ?? null };
  return advance(db, attachment, ['reserved', 'attaching'], 'attaching', { connector: JSON.stringify(own) });
}

/** Says that the other end has it. *Repeat*: fine. @throws conflict (409) for what a server has. */
export function complete(db: Database, attachment: Attachment): Promise<void> {
  return advance(db, attachment, ['attaching', 'attached'], 'attached', { attached_at: new Date() });
}

async function advance(
  db: Database,
  { id, volume_id }: Attachment,
  from: readonly AttachmentStatus[],
  to: WrittenAttachment['status'],
  columns: Parameters<typeof updateAttachment>[2],
): Promise<void> {
  await db.transaction().execute(async (tx) => {
    const volume = await lockVolume(tx, volume_id);
    const { status } = await stillThere(tx, id);
    if (!from.includes(status) || volume.operation !== null) {
      throw new NightlatchError('attachment-state', { attachment: id, allowed: from.join(' or '), status });
    }
    await updateAttachment(tx, id, { ...columns, status: to });
    await updateVolume(tx, volume.id, { status: volumeStatusOf[to] });
  });
}

/** Ends one. @throws conflict (409) for what a server has: it is detached by way of the server (CVE-2023-2088). */
export async function letGo(db: Database, { id, volume_id }: Attachment): Promise<void> {
  await db.transaction().execute(async (tx) => {
    const volume = await lockVolume(tx, volume_id);
    await stillThere(tx, id);
    checkStatus(volume, 'detach', [...HELD, volume.status]);
    await endAttachment(tx, id);
    if (HELD.includes(volume.status)) await updateVolume(tx, volume_id, { status: 'available' });
  });
}

/** Looked at again where nobody can change it. */
async function stillThere(tx: Queryable, id: AttachmentId): Promise<Attachment> {
  const attachment = await findAttachment(tx, id);
  if (!attachment) throw notFound('Volume attachment', id);
  if (attachment.server_id === null) return attachment;
  throw new NightlatchError('conflict', {
    reason: `Detach volume from instance ${attachment.server_id} using the Compute API`,
  });
}

function checkStatus(volume: Volume, action: string, allowed: readonly VolumeStatus[]): void {
  if (allowed.includes(volume.status) && volume.operation === null) return;
  const details = { volume: volume.id, action, allowed: allowed.join(' or '), status: volume.status };
  throw new NightlatchError('volume-state', details);
}

async function checkServer(tx: Queryable, serverId: string, { projectId, isAdmin }: RequestContext): Promise<void> {
  const server = await tx
    .selectFrom('servers')
    .select(['project_id', 'vm_state'])
    .where('id', '=', serverId as ServerId)
    .executeTakeFirst();
  if (server && server.vm_state !== 'deleted' && (isAdmin || server.project_id === projectId)) return;
  throw new NightlatchError('not-there', { reason: `Instance ${shorten(serverId)} could not be found.` });
}
