import type { Selectable } from 'kysely';
import type { Disk } from '#core/disk.ts';
import { NightlatchError } from '#core/errors.ts';
import { type DiskId, type HostName, type LeaseId, newId, type SecretId } from '#core/ids.ts';
import type { Queryable } from '#db/database.ts';
import type { Schema } from '#db/schema.ts';
import { appendAudit } from '#keys/audit.ts';

/** Why a key is on a host. */
export const leaseReasons = ['create', 'run', 'suspend'] as const;
export type LeaseReason = (typeof leaseReasons)[number];
export type Lease = Selectable<Schema['leases']>;

/** An encrypted disk whose secret is stored and whose place is known: what a lease is for. */
export type LeasableDisk = Pick<Disk, 'id' | 'serverId' | 'projectId'> & {
  readonly host: HostName;
  readonly secretId: SecretId;
};

/** Narrows a disk to one a lease can be opened for; null for a disk that is not encrypted. */
export function leasable(disk: Disk): LeasableDisk | null {
  if (disk.encryption === null) return null;
  if (disk.host === null || disk.secretId === null) {
    throw new NightlatchError('key-unavailable', { disk: disk.id, reason: 'no key is stored for it' });
  }
  return { ...disk, host: disk.host, secretId: disk.secretId };
}

/**
 * Opens a lease, or finds the one that is open, and records that the key is about to be released. All of it is durable
 * when `db`'s transaction commits, and only then may the key leave the key store.
 */
export async function openLease(
  db: Queryable,
  disk: LeasableDisk,
  reason: LeaseReason,
  requestId: string,
): Promise<LeaseId> {
  const live = await liveLease(db, disk.id);
  if (live && live.host !== disk.host) {
    throw new NightlatchError('key-unavailable', { disk: disk.id, reason: `host ${live.host} holds its lease` });
  }
  const id = live?.id ?? newId<LeaseId>();
  const facts = factsOf({ ...disk, leaseId: id, reason, requestId });
  if (!live) {
    await db
      .insertInto('leases')
      .values({
        id,
        disk_id: disk.id,
        project_id: disk.projectId,
        secret_id: disk.secretId,
        host: disk.host,
        reason,
        opened_at: new Date(),
      })
      .execute();
    await appendAudit(db, 'lease-opened', facts);
  }
  await appendAudit(db, 'key-released', facts);
  return id;
}

/** Closes the live leases of disks that are locked. *Repeat*: a disk without a live lease is fine. */
export async function closeLeases(db: Queryable, disks: readonly DiskId[], requestId: string): Promise<void> {
  if (disks.length === 0) return;
  const closed = await db
    .updateTable('leases')
    .set({ closed_at: new Date() })
    .where('disk_id', 'in', [...disks])
    .where('closed_at', 'is', null)
    .returningAll()
    .execute();
  for (const lease of closed) {
    const { disk_id: id, project_id: projectId, secret_id: secretId, host, reason } = lease;
    await appendAudit(
      db,
      'lease-closed',
      factsOf({ id, projectId, secretId, host, leaseId: lease.id, reason, requestId }),
    );
  }
}

export async function liveLeases(db: Queryable): Promise<Lease[]> {
  return await db.selectFrom('leases').selectAll().where('closed_at', 'is', null).orderBy('opened_at').execute();
}

async function liveLease(db: Queryable, disk: DiskId): Promise<Lease | null> {
  const query = db.selectFrom('leases').selectAll().where('disk_id', '=', disk).where('closed_at', 'is', null);
  return (await query.executeTakeFirst()) ?? null;
}

type LeaseFacts = Pick<LeasableDisk, 'id' | 'projectId' | 'secretId' | 'host'> & {
  readonly leaseId: LeaseId;
  readonly reason: string;
  readonly requestId: string;
};

function factsOf({ id, projectId, secretId, host, leaseId, reason, requestId }: LeaseFacts): Record<string, string> {
  return { disk: id, project: projectId, secret: secretId, host, lease: leaseId, reason, request: requestId };
}
