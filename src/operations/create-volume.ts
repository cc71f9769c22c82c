import { crashPoint } from '#core/crash-point.ts';
import type { Disk, DiskContent } from '#core/disk.ts';
import { NightlatchError } from '#core/errors.ts';
import type { BackupId, ImageId, SnapshotId, VolumeId } from '#core/ids.ts';
import type { Queryable } from '#db/database.ts';
import { disksOf, updateDisk } from '#db/disks.ts';
import { lockPlacement } from '#db/hosts.ts';
import { snapshotReaders } from '#db/snapshots.ts';
import type { PendingOperation } from '#db/tables/columns.ts';
import { attachmentOf } from '#db/volume-attachments.ts';
import { listPools } from '#db/volume-pools.ts';
import { findVolumeType } from '#db/volume-types.ts';
import { lockVolume, readersOf, releaseVolume, updateVolume, type Volume } from '#db/volumes.ts';
import type { DiskKeys } from '#host/host-agent.ts';
import { imageKeyOf, type OperationContext, type PlacedServer, serverSpec } from '#operations/context.ts';
import type { Failure, Operation, Step } from '#operations/engine.ts';
import { fillFromBackup } from '#operations/restore-backup.ts';
import { hostOfVolumes } from '#operations/server-volumes.ts';
import {
  failVolume,
  needPlacedDisk,
  needVolume,
  type PlacedDisk,
  type VolumeInput,
} from '#operations/volume-context.ts';
import {
  destroyVolumeDisk,
  settleThoseBefore,
  storeVolumeKey,
  tellFailure,
  unlessOpen,
} from '#operations/volume-steps.ts';
import { chooseBackend, type VolumeDemand } from '#placement/choose-backend.ts';

/** The extra spec of a volume type that says what a clone of an encrypted volume gets anew. */
export const CLONE_KEY = 'nightlatch:clone_key';

/**
 * Create volume: blank, or from an image, a snapshot or another volume. Its rows are durable before it begins. Whatever it
 * is made from, it gets a key of its own.
 *
 * | step        | effect                                              | compensation                  | a repeat           |
 * |-------------|-----------------------------------------------------|-------------------------------|--------------------|
 * | wait        | what was begun earlier with its source has ended    | –                             | fine               |
 * | place       | host and backend chosen                             | the disk's row ended          | keeps the choice   |
 * | store-key   | its secret is stored, `key-stored`                  | secret destroyed              | keeps the secret   |
 * | cache-image | the image it is made from is on the host            | none: a cache                 | finds it there     |
 * | create-disk | medium made, formatted and filled, locked           | header overwritten, medium gone | starts over      |
 * | finish      | available; attaching, when it is made for a server  | –                             | same               |
 */
export function createVolume(context: OperationContext): Operation<VolumeInput> {
  return {
    name: 'create-volume',
    steps: [
      { name: 'wait', run: (input) => waitForSource(context, input) },
      {
        name: 'place',
        run: ({ volumeId }) => place(context, volumeId),
        undo: (input) => destroyVolumeDisk(context, input.volumeId, input.requestId),
      },
      storeVolumeKey(context, ({ volumeId }: VolumeInput) => volumeId),
      { name: 'cache-image', run: (input) => cacheImage(context, input) },
      createDisk(context),
      {
        name: 'finish',
        run: (input) => finishCreated(context, input),
      },
    ],
    failed: (input, failure) => failCreated(context, input, failure),
  };
}

/** A server that it is made for takes it from here; until then nobody else can. */
async function finishCreated({ db }: OperationContext, { volumeId, operationId }: VolumeInput): Promise<void> {
  await db.transaction().execute(async (tx) => {
    await lockVolume(tx, volumeId);
    const status = (await attachmentOf(tx, volumeId))?.server_id ? 'attaching' : 'available';
    await releaseVolume(tx, volumeId, operationId, { status, launched_at: new Date() });
  });
}

async function failCreated(context: OperationContext, input: VolumeInput, failure: Failure): Promise<void> {
  // Cinder's numbers: "schedule allocate volume"; "no backend available", and "unknown error".
  await tellFailure(context, input, failure.code === 'no-valid-backend' ? '001_003' : '001_001', failure);
  await failVolume(context, input, 'error');
}

/** Of several that read one source, each waits for those begun before it: their leases and unlocks do not mix. */
async function waitForSource(context: OperationContext, input: VolumeInput): Promise<void> {
  const { source } = await needVolume(context, input.volumeId);
  await settleThoseBefore(context, await readersOfSource(context, source), input.operationId);
}

/** Oldest first. */
async function readersOfSource({ db }: OperationContext, source: Volume['source']): Promise<PendingOperation[]> {
  if (source.kind === 'volume') return await readersOf(db, source.id as VolumeId);
  return source.kind === 'snapshot' ? await snapshotReaders(db, source.id as SnapshotId) : [];
}

/** Chooses a volume's backend and gives its disk its place there. *Repeat*: keeps the choice. */
async function place(context: OperationContext, volumeId: VolumeId): Promise<void> {
  const volume = await needVolume(context, volumeId);
  const from = await sourceDisk(context, volume);
  await context.db.transaction().execute(async (tx) => {
    await lockPlacement(tx);
    const [disk] = await disksOf(tx, volumeId);
    if (!disk) throw new Error(`volume ${volumeId} has no disk`);
    if (disk.host !== null) return;
    const type = volume.volume_type_id === null ? null : await findVolumeType(tx, volume.volume_type_id, null);
    const pools = (await listPools(tx)).filter((pool) => pool.isUp);
    const { chosen, reason } = chooseBackend(pools, {
      sizeGib: volume.size_gib,
      format: disk.encryption,
      extraSpecs: type?.extra_specs ?? {},
      near: from?.host ? { host: from.host, backend: from.backend } : await besideCompanions(tx, volumeId),
    });
    if (!chosen) throw new NightlatchError('no-valid-backend', { reason });
    const { host, backend } = chosen;
    await updateDisk(tx, disk.id, { host, backend: backend.name, storage: backend.storage });
    await updateVolume(tx, volumeId, { host, backend: backend.name });
  });
}

/** The volumes of one server lie on one host. Null: it is made for no server, or is the first of its volumes. */
async function besideCompanions(tx: Queryable, volumeId: VolumeId): Promise<VolumeDemand['near']> {
  const serverId = (await attachmentOf(tx, volumeId))?.server_id ?? null;
  const host = serverId === null ? null : await hostOfVolumes(tx, serverId);
  return host === null ? null : { host, backend: null };
}

/** The disk that a volume is made from; null: from none. */
async function sourceDisk(context: OperationContext, { source }: Pick<Volume, 'source'>): Promise<Disk | null> {
  if (source.kind !== 'volume' && source.kind !== 'snapshot') return null;
  return (await needPlacedDisk(context, source.id as VolumeId | SnapshotId)).disk;
}

async function cacheImage(context: OperationContext, { volumeId }: VolumeInput): Promise<void> {
  const { source } = await needVolume(context, volumeId);
  if (source.kind !== 'image') return;
  const { agent } = await needPlacedDisk(context, volumeId);
  await agent.cacheImage(source.id as ImageId, await context.images.openImage(source.id as ImageId));
}

function createDisk(context: OperationContext): Step<VolumeInput> {
  return {
    name: 'create-disk',
    async run({ volumeId, requestId }) {
      const volume = await needVolume(context, volumeId);
      const { disk, agent } = await needPlacedDisk(context, volumeId);
      if (disk.state === 'formatted') return;
      const from = await sourceDisk(context, volume);
      if (from !== null) {
        await copyDisk(context, { from, disk, requestId, isNewKey: await wantsNewKey(context, volume) });
      } else if (volume.source.kind === 'backup') {
        await fillFromBackup(context, { backupId: volume.source.id as BackupId, disk, agent, requestId });
      } else {
        await fillAnew(context, { disk, agent }, contentOfVolume(volume), requestId);
      }
      crashPoint('steps.create-volume-disk.made');
      await updateDisk(context.db, disk.id, { state: 'formatted' });
    },
    undo: ({ volumeId, requestId }) => destroyVolumeDisk(context, volumeId, requestId),
  };
}

/** Makes a disk that is blank or holds an image; locked, its lease closed. *Repeat*: starts over. */
export async function fillAnew(
  context: OperationContext,
  { disk, agent }: PlacedDisk,
  content: DiskContent,
  requestId: string,
): Promise<void> {
  const imageKey = await imageKeyOf(context, disk, content);
  const create = (keys: DiskKeys) => agent.createDisk(disk, content, keys);
  await context.keys.lend([disk], 'create', requestId, create, imageKey);
  await context.keys.close([disk], requestId);
}

function contentOfVolume({ source }: Volume): DiskContent {
  return source.kind === 'image' ? { kind: 'image', imageId: source.id as ImageId } : { kind: 'blank' };
}

/** Whether a copy of a volume is to have a volume key of its own too, besides its passphrase. */
export async function wantsNewKey({ db }: OperationContext, { volume_type_id: id }: Volume): Promise<boolean> {
  const type = id === null ? null : await findVolumeType(db, id, null);
  return type?.extra_specs[CLONE_KEY] === 'volume-key';
}

/** What a copy is made of, and of whom. */
export type DiskCopyRequest = {
  readonly from: Disk;
  readonly disk: Disk;
  readonly requestId: string;
  /** With a volume key of its own, not only a passphrase. */
  readonly isNewKey: boolean;
  /** At most so fast, see `HostAgent.paceCopy`; absent: as fast as it goes. */
  readonly bytesPerSecond?: number;
};

/**
 * Makes `disk` hold what `from` holds at one moment, under its own key. Where both lie alike the medium is copied as it
 * is and its passphrase changed; else, and from under a running guest, the data is encrypted anew. While it is read from a
 * locked volume no guest starts with that. On return what was not open before is locked and its lease closed. *Repeat*:
 * starts over.
 */
export async function copyDisk(context: OperationContext, request: DiskCopyRequest): Promise<void> {
  const { from } = request;
  // Of a snapshot no guest ever has anything.
  if (from.role !== 'volume') return await copyLocked(context, request);
  await unlessOpen(context, from.ownerId as VolumeId, (guest) =>
    guest === null ? copyLocked(context, request) : copyFromGuest(context, guest, request),
  );
}

async function copyLocked(context: OperationContext, request: DiskCopyRequest) {
  const { from, disk, requestId, isNewKey, bytesPerSecond = 0 } = request;
  const { agent } = await needPlacedDisk(context, disk.ownerId);
  const isAlike = from.storage === disk.storage && from.encryption === disk.encryption && from.encryption !== 'plain';
  const content: DiskContent = isAlike && !isNewKey ? { kind: 'clone', from } : { kind: 'disk', from, bytesPerSecond };
  try {
    await context.keys.lend([from, disk], 'copy', requestId, (keys) => agent.createDisk(disk, content, keys));
  } finally {
    await context.keys.close([from, disk], requestId);
  }
}

async function copyFromGuest(
  context: OperationContext,
  placed: PlacedServer,
  { from, disk, requestId }: DiskCopyRequest,
) {
  const sameSize: Disk = { ...disk, sizeBytes: from.sizeBytes };
  try {
    await context.keys.lend([disk], 'copy', requestId, async (keys) => {
      await placed.agent.copyRunningDisk(serverSpec(placed), from, sameSize, keys);
      if (disk.sizeBytes > from.sizeBytes) await placed.agent.growDisk(disk, from.sizeBytes, keys, null);
    });
  } finally {
    await context.keys.close([disk], requestId);
  }
}
