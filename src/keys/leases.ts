import type { Selectable } from 'kysely';
import type { Disk } from '#core/disk.ts';
import { NightlatchError } from '#core/errors.ts';
import { type DiskId, type HostName, type ImageId, type LeaseId, newId, type SecretId } from '#core/ids.ts';
import type { Queryable } from '#db/database.ts';
import type { Schema } from '#db/schema.ts';
import { type AuditEntry, appendAuditEntries } from '#keys/audit.ts';

/** Why a key is on a host. */
export const leaseReasons = ['create', 'copy', 'run', 'suspend', 'snapshot', 'rekey'] as const;
export type LeaseReason = (typeof leaseReasons)[number];
export type Lease = Selectable<Schema['leases']>;

/** An encrypted disk whose secret is stored and whose place is known: what a lease is for. */
export type LeasableDisk = Pick<Disk, 'id' | 'projectId'> & {
  readonly host: HostName;
  readonly secretId: SecretId;
  /** Not the disk's own key: that of the encrypted image it is made from. */
  readonly imageId: ImageId | null;
};

/** The key of an encrypted image, and the disk that is made from it. */
export type ImageKey = { readonly imageId: ImageId; readonly secretId: SecretId; readonly disk: Disk };

/** Narrows a disk to one a lease can be opened for; null for a disk that is not encrypted. */
export function leasable(disk: Disk): LeasableDisk | null {
  if (disk.encryption === null) return null;
  if (disk.host === null || disk.secretId === null) {
    throw new NightlatchError('key-unavailable', { disk: disk.id, reason: 'no key is stored for it' });
  }
  return { ...disk, host: disk.host, secretId: disk.secretId, imageId: null };
}

/** The key is looked for in the disk's project: nobody's server is made with the key of another. */
export function leasableImage({ imageId, secretId, disk }: ImageKey): LeasableDisk {
  if (disk.host === null) throw new Error(`disk ${disk.id} is made from an image before it was placed on a host`);
  return { ...disk, host: disk.host, secretId, imageId };
}

/**
 * Opens a lease for each disk, or finds the one that is open, and records that its key is about to be released. All of
 * it is durable when `db`'s transaction commits, and only then may a key leave the key store.
 */
export async function openLeases(
  db: Queryable,
  disks: readonly LeasableDisk[],
  reason: LeaseReason,
  requestId: string,
): Promise<void> {
  if (disks.length === 0) return;
  const live = await liveLeasesOf(db, disks);
  const leases = disks.map((disk) => {
    const held = live.get(leaseKey(disk.id, disk.secretId));
    if (held && held.host !== disk.host) {
      throw new NightlatchError('key-unavailable', { disk: disk.id, reason: `host ${held.host} holds its lease` });
    }
    return { disk, isNew: held === undefined, id: held?.id ?? newId<LeaseId>() };
  });
  const opened = leases.filter(({ isNew }) => isNew).map(({ disk, id }) => newLease(disk, id, reason));
  if (opened.length > 0) await db.insertInto('leases').values(opened).execute();
  const records = leases.flatMap(({ disk, isNew, id }): AuditEntry[] => {
    const facts = factsOf({ ...disk, leaseId: id, reason, requestId });
    return [...(isNew ? [{ event: 'lease-opened', facts } as const] : []), { event: 'key-released', facts }];
  });
  await appendAuditEntries(db, records);
}

/**
 * Closes the live leases of disks that are locked. `except`: those of this secret stay. *Repeat*: a disk without a live
 * lease is fine.
 */
export async function closeLeases(
  db: Queryable,
  disks: readonly DiskId[],
  requestId: string,
  except: SecretId | null = null,
): Promise<void> {
  if (disks.length === 0) return;
  const closed = await db
    .updateTable('leases')
    .set({ closed_at: new Date() })
    .where('disk_id', 'in', [...disks])
    .where('closed_at', 'is', null)
    .$if(except !== null, (query) => query.where('secret_id', '<>', except as SecretId))
    .returningAll()
    .execute();
  const records = closed.map((lease): AuditEntry => {
    const { disk_id: id, project_id: projectId, secret_id: secretId, image_id: imageId, host, reason } = lease;
    const facts = factsOf({ id, projectId, secretId, imageId, host, leaseId: lease.id, reason, requestId });
    return { event: 'lease-closed', facts };
  });
  await appendAuditEntries(db, records);
}

export async function liveLeases(db: Queryable): Promise<Lease[]> {
  return await db.selectFrom('leases').selectAll().where('closed_at', 'is', null).orderBy('opened_at').execute();
}

async function liveLeasesOf(db: Queryable, disks: readonly LeasableDisk[]): Promise<ReadonlyMap<string, Lease>> {
  const ids = disks.map(({ id }) => id);
  const query = db.selectFrom('leases').selectAll().where('disk_id', 'in', ids).where('closed_at', 'is', null);
  return new Map((await query.execute()).map((lease) => [leaseKey(lease.disk_id, lease.secret_id), lease]));
}

function leaseKey(disk: DiskId, secret: SecretId): string {
  return `${disk} ${secret}`;
}

function newLease(disk: LeasableDisk, id: LeaseId, reason: LeaseReason) {
  const { id: disk_id, projectId: project_id, secretId: secret_id, imageId: image_id, host } = disk;
  return { id, disk_id, project_id, secret_id, image_id, host, reason, opened_at: new Date() };
}

type LeaseFacts = Pick<LeasableDisk, 'id' | 'projectId' | 'secretId' | 'imageId' | 'host'> & {
  readonly leaseId: LeaseId;
  readonly reason: string;
  readonly requestId: string;
};

function factsOf(facts: LeaseFacts): Record<string, string> {
  const { id, projectId, secretId, imageId, host, leaseId, reason, requestId } = facts;
  const image = imageId === null ? {} : { image: imageId };
  return { disk: id, project: projectId, secret: secretId, ...image, host, lease: leaseId, reason, request: requestId };
}
