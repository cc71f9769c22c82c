import type { Insertable, Selectable, Updateable } from 'kysely';
import { type Disk, type DiskOwnerId, type DiskRole, diskRoles } from '#core/disk.ts';
import {
  type DiskId,
  type HostName,
  type ImageId,
  newId,
  type SecretId,
  type ServerId,
  type VolumeId,
} from '#core/ids.ts';
import type { Queryable } from '#db/database.ts';
import type { Schema } from '#db/schema.ts';

export type DiskRow = Selectable<Schema['disks']>;
export type NewDisk = Insertable<Schema['disks']>;

export async function insertDisks(db: Queryable, disks: readonly NewDisk[]): Promise<void> {
  if (disks.length > 0)
    await db
      .insertInto('disks')
      .values([...disks])
      .execute();
}

export async function findDisk(db: Queryable, id: DiskId): Promise<DiskRow | null> {
  return (await db.selectFrom('disks').selectAll().where('id', '=', id).executeTakeFirst()) ?? null;
}

/** The disks of a server, a volume or a snapshot that are not destroyed, in the order a guest sees them. */
export async function disksOf(db: Queryable, owner: DiskOwnerId): Promise<DiskRow[]> {
  const rows = await db
    .selectFrom('disks')
    .selectAll()
    .where('owner_id', '=', owner)
    .where('state', '<>', 'destroyed')
    .execute();
  const place = ({ role }: DiskRow) => diskRoles.indexOf(role);
  return rows.sort((a, b) => place(a) - place(b) || a.ordinal - b.ordinal || a.generation - b.generation);
}

/** The disk that a volume has, beside one that is coming or was kept; null: none, as of one that is deleted. */
export async function liveDiskOf(db: Queryable, volume: VolumeId): Promise<DiskRow | null> {
  return (await disksOf(db, volume)).find(({ standing }) => standing === 'live') ?? null;
}

/** Whether a disk that is not destroyed names this secret as its key. */
export async function isDiskKey(db: Queryable, secret: SecretId): Promise<boolean> {
  const query = db.selectFrom('disks').select('id').where('secret_id', '=', secret).where('state', '<>', 'destroyed');
  return (await query.executeTakeFirst()) !== undefined;
}

export async function updateDisk(
  db: Queryable,
  id: DiskId,
  change: Omit<Updateable<Schema['disks']>, 'id'>,
): Promise<void> {
  await db.updateTable('disks').set(change).where('id', '=', id).execute();
}

/** Where a server's disks go, and what the host there does about encryption where it is the host's to decide. */
export type DiskPlace = {
  readonly host: HostName;
  readonly storage: Disk['storage'];
  /** Of an encrypted disk whose user named none. */
  readonly defaultFormat: NonNullable<Disk['encryption']>;
  /** Of a disk that nobody decided about; null: it is not encrypted. */
  readonly undecidedFormat: Disk['encryption'];
};

/** Gives a server's disks their place: the host, how they lie there, whether they are encrypted, and in what format. */
export async function placeDisks(db: Queryable, serverId: ServerId, place: DiskPlace): Promise<void> {
  await db
    .updateTable('disks')
    .set((eb) => ({
      host: place.host,
      storage: place.storage,
      encrypted: eb.fn.coalesce('encrypted', eb.val(place.undecidedFormat !== null)),
      encryption: eb
        .case()
        .when('encrypted', 'is', null)
        .then(place.undecidedFormat)
        .when('encrypted', '=', false)
        .then(null)
        .else(eb.fn.coalesce('encryption', eb.val(place.defaultFormat)))
        .end(),
    }))
    .where('owner_id', '=', serverId)
    .where('state', '=', 'absent')
    .execute();
}

/** The generation of a server's next disk of this role: no other ever had it, so that names never meet. */
export async function nextGeneration(
  db: Queryable,
  disk: Pick<DiskRow, 'owner_id' | 'role' | 'ordinal'>,
): Promise<number> {
  const { highest } = await db
    .selectFrom('disks')
    .select((eb) => eb.fn.max('generation').as('highest'))
    .where('owner_id', '=', disk.owner_id)
    .where('role', '=', disk.role)
    .where('ordinal', '=', disk.ordinal)
    .executeTakeFirstOrThrow();
  return highest === null ? 0 : highest + 1;
}

/**
 * Makes those disks of a server `live` whose standing is `bringIn`. Live ones that they replace, or whose role is not
 * among `wanted`, become `putAway`. For a transaction: at no other instant has the guest two disks of a kind.
 */
export async function exchangeDisks(
  db: Queryable,
  serverId: ServerId,
  {
    bringIn,
    putAway,
    wanted,
  }: { bringIn: 'coming' | 'kept'; putAway: 'coming' | 'kept'; wanted: ReadonlySet<DiskRole> },
): Promise<void> {
  const disks = await disksOf(db, serverId);
  const incoming = disks.filter(({ standing }) => standing === bringIn);
  const isReplaced = (disk: DiskRow) =>
    incoming.some(({ role, ordinal }) => role === disk.role && ordinal === disk.ordinal) || !wanted.has(disk.role);
  for (const disk of disks) {
    if (disk.standing === 'live' && isReplaced(disk)) await updateDisk(db, disk.id, { standing: putAway });
  }
  for (const { id } of incoming) await updateDisk(db, id, { standing: 'live' });
}

/**
 * Writes a row for the disk that is to replace each live one, as `coming`, without a place. `rootImage`: what the root
 * disk is made from, if it has one. *Repeat*: fine.
 */
export async function planSuccessors(tx: Queryable, serverId: ServerId, rootImage: ImageId | null): Promise<void> {
  const rows = await disksOf(tx, serverId);
  if (rows.some(({ standing }) => standing === 'coming')) return;
  const replaced = rows.filter(({ role, standing }) => standing === 'live' && role !== 'memory' && role !== 'snapshot');
  for (const { created_at: _, ...row } of replaced) {
    const successor = {
      id: newId<DiskId>(),
      generation: await nextGeneration(tx, row),
      standing: 'coming',
      image_id: row.role === 'root' ? rootImage : row.image_id,
      storage: null,
      host: null,
      state: 'absent',
      secret_id: null,
    } as const;
    await insertDisks(tx, [{ ...row, ...successor }]);
  }
}

/** Those that were coming are a server's disks now. The ones before them are gone. *Repeat*: fine. */
export async function promoteSuccessors(tx: Queryable, serverId: ServerId): Promise<void> {
  await tx
    .updateTable('disks')
    .set({ standing: 'live' })
    .where('owner_id', '=', serverId)
    .where('standing', '=', 'coming')
    .where('state', '<>', 'destroyed')
    .execute();
}

/** A placed disk in the words of `core`. */
export function asDisk(row: DiskRow): Disk {
  if (row.storage === null) throw new Error(`disk ${row.id} is used before it was placed on a host`);
  return {
    id: row.id,
    ownerId: row.owner_id,
    backend: row.backend,
    projectId: row.project_id,
    role: row.role,
    ordinal: row.ordinal,
    generation: row.generation,
    sizeBytes: row.size_bytes,
    storage: row.storage,
    encryption: row.encryption,
    host: row.host,
    state: row.state,
    standing: row.standing,
    secretId: row.secret_id,
    otherSecretId: row.other_secret_id,
    imageId: row.image_id,
  };
}

/** Images that a host has a use for: those its disks start from, and those that can still be asked for. */
export async function imagesToKeep(db: Queryable, host: HostName): Promise<Set<ImageId>> {
  const used = db
    .selectFrom('disks')
    .select('image_id as id')
    .where((eb) => eb.or([eb('host', '=', host), eb('host', 'is', null)]))
    .where('state', '<>', 'destroyed')
    .where('image_id', 'is not', null)
    .$narrowType<{ id: ImageId }>();
  const rows = await used.union(db.selectFrom('images').select('id')).execute();
  return new Set(rows.map(({ id }) => id));
}

/** Ends the rows of an owner's disks that never got a place: there is no medium and no key. *Repeat*: fine. */
export async function endUnplacedDisks(db: Queryable, owner: DiskOwnerId): Promise<void> {
  await db
    .updateTable('disks')
    .set({ state: 'destroyed' })
    .where('owner_id', '=', owner)
    .where('storage', 'is', null)
    .execute();
}
