import type { FastifyRequest } from 'fastify';
import type { RequestContext } from '#api/auth.ts';
import { toBoolean } from '#api/block-storage/fields.ts';
import { has } from '#api/block-storage/microversions.ts';
import { allowed, type BlockStorageAction } from '#api/block-storage/policy.ts';
import type { BlockStorageServices } from '#api/block-storage/services.ts';
import { reimage, revert, uploadImage } from '#api/block-storage/volume-content.ts';
import type { VolumeActionBody } from '#api/block-storage/volume-schemas.ts';
import { letGo, writeDown } from '#api/block-storage/written-attachments.ts';
import { badRequest, NightlatchError, notFound, shorten } from '#core/errors.ts';
import { MIB } from '#core/sizes.ts';
import { type VolumeStatus, volumeStatuses } from '#core/volume.ts';
import { backendAddress } from '#core/volume-backend.ts';
import { attachmentOf } from '#db/volume-attachments.ts';
import { listPools } from '#db/volume-pools.ts';
import { checkQuota } from '#db/volume-quotas.ts';
import { findVolumeType, findVolumeTypeNamed } from '#db/volume-types.ts';
import type { VolumeChange } from '#db/volumes.ts';
import { lockVolume, updateVolume, type Volume } from '#db/volumes.ts';

/** One action asked of a volume that the caller may see. */
export type VolumeActionCall = {
  readonly request: FastifyRequest;
  readonly body: VolumeActionBody;
  readonly context: RequestContext;
  readonly volume: Volume;
  readonly services: BlockStorageServices;
};

/** Who may do it, and what it does: the answer is 200 with a body, or 202 without. */
export type VolumeAction = {
  readonly policy: BlockStorageAction;
  readonly status?: 200;
  readonly run: (call: VolumeActionCall) => Promise<object | null>;
};

const MIGRATE = 'volume_extension:volume_admin_actions:migrate_volume';

/** Actions that are served, by the name a client sends. See Block Storage API v3 "Volume actions". */
export const volumeActionCalls: Readonly<Record<string, VolumeAction>> = {
  'os-extend': { policy: 'volume:extend', run: extend },
  'os-set_bootable': {
    policy: 'volume_extension:volume_actions:set_bootable',
    status: 200,
    run: ({ body, services, volume }) =>
      change(services, volume, { bootable: toBoolean(body['os-set_bootable']?.bootable ?? false) }),
  },
  'os-update_readonly_flag': {
    policy: 'volume:update_readonly_flag',
    run: async ({ body, services, volume }) => {
      if (volume.status !== 'available') {
        throw badRequest(
          `Invalid volume: Volume ${volume.id} status must be available to update readonly flag, but current status is: ${volume.status}.`,
        );
      }
      return await change(services, volume, {
        readonly: toBoolean(body['os-update_readonly_flag']?.readonly ?? false),
      });
    },
  },
  'os-reset_status': { policy: 'volume_extension:volume_admin_actions:reset_status', run: resetStatus },
  'os-retype': { policy: 'volume:retype', run: retype },
  'os-volume_upload_image': { policy: 'volume_extension:volume_actions:upload_image', run: uploadImage },
  revert: { policy: 'volume:revert_to_snapshot', run: revert },
  'os-reimage': { policy: 'volume:reimage', run: reimage },
  'os-migrate_volume': { policy: MIGRATE, run: migrate },
  'nightlatch:rekey': { policy: 'volume:rekey', run: rekey },
  'nightlatch:set_migration_bandwidth': {
    policy: MIGRATE,
    run: async ({ body, services, volume }) => {
      const { bandwidth } = body['nightlatch:set_migration_bandwidth'] ?? { bandwidth: 0 };
      await services.migrations.setSpeed(volume.id, bandwidth * MIB);
      return null;
    },
  },
  'nightlatch:cancel_migration': {
    policy: MIGRATE,
    run: async ({ services, volume }) => {
      await services.migrations.cancel(volume.id);
      return null;
    },
  },
  'nightlatch:header_backups': {
    policy: 'volume:header_backups',
    status: 200,
    run: async ({ services, volume }) => ({
      header_backups: (await services.headers.list(volume.id)).map(({ version, secretId, storedAt, isCurrent }) => {
        return { version, encryption_key_id: secretId, created_at: storedAt, is_current: isCurrent };
      }),
    }),
  },
  'nightlatch:restore_header': {
    policy: 'volume:restore_header',
    run: async ({ services, volume, context, body }) => {
      await services.headers.restore(volume.id, body['nightlatch:restore_header']?.version ?? null, context);
      return null;
    },
  },
  'os-force_delete': {
    policy: 'volume_extension:volume_admin_actions:force_delete',
    run: async ({ services, volume, context }) => {
      await services.volumes.delete(volume.id, context, { force: true, cascade: false });
      return null;
    },
  },
  'os-reserve': {
    policy: 'volume_extension:volume_actions:reserve',
    // Not `reserved`: that is what /attachments calls it.
    run: ({ services, volume }) => exchangeStatus(services, volume, 'available', 'attaching'),
  },
  'os-unreserve': {
    policy: 'volume_extension:volume_actions:unreserve',
    run: unreserve,
  },
  'os-begin_detaching': {
    policy: 'volume_extension:volume_actions:begin_detaching',
    run: ({ services, volume }) => exchangeStatus(services, volume, 'in-use', 'detaching'),
  },
  'os-roll_detaching': {
    policy: 'volume_extension:volume_actions:roll_detaching',
    run: ({ services, volume }) => exchangeStatus(services, volume, 'detaching', 'in-use'),
  },
  'os-attach': { policy: 'volume_extension:volume_actions:attach', run: attachByHand },
  'os-detach': { policy: 'volume_extension:volume_actions:detach', run: detachByHand },
  'os-force_detach': { policy: 'volume_extension:volume_admin_actions:force_detach', run: detachByHand },
  'os-set_image_metadata': {
    policy: 'volume_extension:volume_image_metadata:set',
    status: 200,
    run: async ({ body, services, volume }) => ({
      metadata: await changeImageMetadata(services, volume, (old) => ({
        ...old,
        ...body['os-set_image_metadata']?.metadata,
      })),
    }),
  },
  'os-unset_image_metadata': {
    policy: 'volume_extension:volume_image_metadata:remove',
    status: 200,
    run: async ({ body, services, volume }) => {
      const key = body['os-unset_image_metadata']?.key ?? '';
      await changeImageMetadata(services, volume, (old) => {
        const { [key]: value, ...rest } = old;
        if (value !== undefined) return rest;
        throw new NightlatchError('not-there', { reason: `Metadata ${shorten(key)} could not be found.` });
      });
      return null;
    },
  },
  'os-show_image_metadata': {
    policy: 'volume_extension:volume_image_metadata:show',
    status: 200,
    run: async ({ volume }) => ({ metadata: volume.image_metadata ?? {} }),
  },
};

async function extend({ request, body, context, volume, services }: VolumeActionCall): Promise<null> {
  const size = Number(body['os-extend']?.new_size);
  if (volume.status === 'in-use' && !has(request, 'extend-in-use')) {
    throw badRequest('Invalid volume: extending a volume that is in use came with microversion 3.42.');
  }
  const type = volume.volume_type_id === null ? null : await findVolumeType(services.db, volume.volume_type_id, null);
  const more = { gigabytes: size - volume.size_gib };
  const quota = { kind: 'volume', more, volumeType: type?.name ?? null, volumeGib: size } as const;
  await services.volumes.extend(volume.id, size, context, (tx) => checkQuota(tx, volume.project_id, quota));
  return null;
}

async function retype({ body, context, volume, services }: VolumeActionCall): Promise<null> {
  const { new_type: name, migration_policy: policy } = body['os-retype'] ?? {};
  const type = await findVolumeTypeNamed(services.db, name ?? '', context.isAdmin ? null : context.projectId);
  if (!type) throw notFound('Volume type', name ?? '');
  await services.migrations.retype(volume.id, type, policy === 'on-demand', context);
  return null;
}

/** Another passphrase, or with `volume_key` another volume key too, for which its data is written anew. */
async function rekey({ request, body, context, volume, services }: VolumeActionCall): Promise<null> {
  const { volume_key: isWhole, bandwidth } = body['nightlatch:rekey'] ?? {};
  if (bandwidth !== undefined) allowed(request, MIGRATE);
  if (isWhole)
    await services.migrations.reencrypt(volume.id, bandwidth === undefined ? null : bandwidth * MIB, context);
  else await services.volumes.rekey(volume.id, context);
  return null;
}

/** Always by copying, as with `force_host_copy`: no backend moves data by itself. */
async function migrate({ body, context, volume, services }: VolumeActionCall): Promise<null> {
  const { host, lock_volume: isLocked = false } = body['os-migrate_volume'] ?? { host: '' };
  const pools = await listPools(services.db);
  const pool = pools.find(({ host: name, backend }) => {
    const address = backendAddress(name, backend);
    return host === address || host === address.split('#')[0];
  });
  if (!pool?.isUp) throw badRequest(`Invalid host: No available service named '${shorten(host)}'`);
  if (pool.host !== volume.host) {
    throw badRequest(
      `Invalid host: Volume ${volume.id} lies on host ${volume.host}, and volumes are moved between the backends of their host only.`,
    );
  }
  await services.migrations.migrate(volume.id, pool.backend.name, toBoolean(isLocked), context);
  return null;
}

async function resetStatus({ body, services, volume }: VolumeActionCall): Promise<null> {
  const asked = body['os-reset_status'] ?? {};
  const { status } = asked;
  if (status == null && asked.attach_status == null && asked.migration_status == null) {
    throw badRequest('Must specify valid status.');
  }
  if (status != null && !(volumeStatuses as readonly string[]).includes(status.toLowerCase())) {
    throw badRequest('Must specify a valid status');
  }
  return await change(services, volume, {
    ...(status == null ? {} : { status: status.toLowerCase() as VolumeStatus }),
    ...(asked.migration_status == null
      ? {}
      : { migration_status: asked.migration_status === 'none' ? null : asked.migration_status }),
  });
}

/** What Nova does around an attachment of its own, for clients that play its part. */
async function exchangeStatus(
  { db }: BlockStorageServices,
  { id }: Volume,
  from: VolumeStatus,
  to: VolumeStatus,
): Promise<null> {
  await db.transaction().execute(async (tx) => {
    const volume = await lockVolume(tx, id);
    if (volume.status !== from || volume.operation !== null) {
      throw new NightlatchError('volume-state', {
        volume: id,
        action: `make ${to}`,
        allowed: from,
        status: volume.status,
      });
    }
    await updateVolume(tx, id, { status: to });
  });
  return null;
}

/** *Repeat*: fine. */
async function unreserve({ services, volume }: VolumeActionCall): Promise<null> {
  const { status } = volume;
  if (status !== 'attaching' && status !== 'reserved') return null;
  const attachment = await attachmentOf(services.db, volume.id);
  if (attachment === null) return await exchangeStatus(services, volume, status, 'available');
  await letGo(services.db, attachment);
  return null;
}

async function attachByHand({ body, services: { db }, volume, context }: VolumeActionCall): Promise<null> {
  const asked = body['os-attach'];
  if (!asked) throw badRequest("'os-attach' is a required property");
  await writeDown(db, volume.id, context, {
    instance: asked.instance_uuid ?? null,
    connector: { host: asked.host_name ?? null },
    mode: asked.mode ?? 'rw',
    device: asked.mountpoint,
    status: 'attached',
  });
  return null;
}

/** *Repeat*: fine. */
async function detachByHand({ services, volume }: VolumeActionCall): Promise<null> {
  const attachment = await attachmentOf(services.db, volume.id);
  if (attachment) await letGo(services.db, attachment);
  else if (volume.status === 'detaching') await exchangeStatus(services, volume, 'detaching', 'available');
  return null;
}

/** As one step: of changes at once none is lost. Returns what it is then. */
async function changeImageMetadata(
  { db }: BlockStorageServices,
  { id }: Volume,
  change: (old: Readonly<Record<string, string>>) => Readonly<Record<string, string>>,
): Promise<Readonly<Record<string, string>>> {
  return await db.transaction().execute(async (tx) => {
    const metadata = change((await lockVolume(tx, id)).image_metadata ?? {});
    await updateVolume(tx, id, { image_metadata: JSON.stringify(metadata) });
    return metadata;
  });
}

async function change({ db }: BlockStorageServices, { id }: Volume, columns: VolumeChange): Promise<null> {
  await updateVolume(db, id, columns);
  return null;
}
