import type { FastifyRequest } from 'fastify';
import { type Static, Type } from 'typebox';
import type { ApiApp } from '#api/app.ts';
import type { RequestContext } from '#api/auth.ts';
import { BooleanWord, Description, flagFrom, Metadata, NullableName, toBoolean } from '#api/block-storage/fields.ts';
import { linksTo, nextPage } from '#api/block-storage/links.ts';
import { has, requireFeature } from '#api/block-storage/microversions.ts';
import { pageOf, readPaging, type SortValues } from '#api/block-storage/paging.ts';
import { allowed, type BlockStorageAction } from '#api/block-storage/policy.ts';
import type { BlockStorageServices } from '#api/block-storage/services.ts';
import { getBackup, getSnapshot, getVolume } from '#api/block-storage/volume-lookup.ts';
import { exactly } from '#api/fields.ts';
import { Query } from '#api/query.ts';
import { presentTime } from '#api/times.ts';
import { badRequest, NightlatchError } from '#core/errors.ts';
import { type BackupStatus, backupStatuses } from '#core/volume.ts';
import { type Backup, countDependents, listBackups, updateBackup } from '#db/backups.ts';
import { checkQuota } from '#db/volume-quotas.ts';
import { findVolumeType } from '#db/volume-types.ts';
import type { Volume } from '#db/volumes.ts';

type Id = { id: string };
const NullableId = Type.Union([Type.String({ maxLength: 64 }), Type.Null()]);

const CreateBody = exactly({
  backup: exactly({
    volume_id: Type.String({ maxLength: 64 }),
    name: Type.Optional(NullableName),
    description: Type.Optional(Description),
    container: Type.Optional(Type.Union([Type.String({ maxLength: 255 }), Type.Null()])),
    incremental: Type.Optional(Type.Union([BooleanWord, Type.Null()])),
    force: Type.Optional(Type.Union([BooleanWord, Type.Null()])),
    snapshot_id: Type.Optional(NullableId),
    metadata: Type.Optional(Type.Union([Metadata, Type.Null()])),
    availability_zone: Type.Optional(NullableName),
  }),
});
const UpdateBody = exactly({
  backup: Type.Object(
    {
      name: Type.Optional(NullableName),
      description: Type.Optional(Description),
      metadata: Type.Optional(Type.Union([Metadata, Type.Null()])),
    },
    { additionalProperties: false, minProperties: 1 },
  ),
});
const RestoreBody = exactly({
  restore: exactly({ volume_id: Type.Optional(NullableId), name: Type.Optional(NullableName) }),
});
const ActionBody = Type.Object(
  {
    'os-reset_status': Type.Optional(exactly({ status: Type.String({ maxLength: 64 }) })),
    'os-force_delete': Type.Optional(Type.Unknown()),
  },
  { minProperties: 1, maxProperties: 1 },
);

const order: SortValues<Backup> = {
  id: ({ id }) => id,
  name: ({ name }) => name,
  status: ({ status }) => status,
  size: ({ size_gib }) => size_gib,
  container: ({ container }) => container,
  created_at: ({ created_at }) => created_at.getTime(),
  updated_at: ({ updated_at }) => updated_at.getTime(),
};

/** What a list of backups can be restricted by. */
export const backupFilters = ['name', 'status', 'volume_id', 'snapshot_id'] as const;

/** Backups of volumes. See Block Storage API v3 "Backups". */
export function addBackupRoutes(app: ApiApp, services: BlockStorageServices): void {
  const { db, publicUrl } = services;
  const find = async (request: FastifyRequest, action: BlockStorageAction) => {
    const context = allowed(request, action);
    const backup = await getBackup(db, (request.params as Id).id, context);
    return { context, backup };
  };
  const summary = (request: FastifyRequest, { id, name }: Backup) => ({
    id,
    name,
    links: linksTo(request, publicUrl, `backups/${id}`),
  });
  const present = async (request: FastifyRequest, backup: Backup) => ({
    ...summary(request, backup),
    ...presentBackup(request, backup, (await countDependents(db, backup.id)) > 0),
  });

  for (const isDetailed of [false, true]) {
    const path = isDetailed ? 'backups/detail' : 'backups';
    app.get(`/${path}`, async (request) => {
      const listed = await backupsFor(request, services, allowed(request, 'backup:get_all'));
      const ids = listed.items.map(({ id }) => id);
      const links = nextPage(request, publicUrl, { path, limit: listed.limit, ids });
      const shown = listed.items.map((backup) => (isDetailed ? present(request, backup) : summary(request, backup)));
      return { backups: await Promise.all(shown), ...(links.length > 0 ? { backups_links: links } : {}) };
    });
  }
  app.get('/backups/:id', async (request) => {
    const { backup } = await find(request, 'backup:get');
    return { backup: await present(request, backup) };
  });
  app.post('/backups', { schema: { body: CreateBody } }, async (request, reply) => {
    const context = allowed(request, 'backup:create');
    const backup = await create(request, request.body.backup, context, services);
    reply.status(202);
    return { backup: summary(request, backup) };
  });
  app.put('/backups/:id', { schema: { body: UpdateBody } }, async (request) => {
    requireFeature(request, 'backup-update');
    const { backup } = await find(request, 'backup:update');
    const { name, description, metadata } = request.body.backup;
    await updateBackup(db, backup.id, {
      ...(name === undefined ? {} : { name }),
      ...(description === undefined ? {} : { description }),
      ...(metadata == null ? {} : { metadata: JSON.stringify(metadata) }),
    });
    const { backup: changed } = await find(request, 'backup:get');
    return { backup: summary(request, changed) };
  });
  app.delete('/backups/:id', async (request, reply) => {
    const { context, backup } = await find(request, 'backup:delete');
    await services.backups.delete(backup.id, context, { force: false });
    return await reply.status(202).send();
  });
  app.post('/backups/:id/restore', { schema: { body: RestoreBody } }, async (request, reply) => {
    const { context, backup } = await find(request, 'backup:restore');
    const { volume_id: volumeId, name } = request.body.restore;
    if (backup.status !== 'available') {
      const details = { backup: backup.id, action: 'restore', allowed: 'available', status: backup.status };
      throw new NightlatchError('backup-state', details);
    }
    const volume =
      volumeId == null
        ? await volumeFor(backup, name ?? `restore_backup_${backup.id}`, context, services)
        : await getVolume(db, volumeId, context);
    if (volumeId != null) await services.backups.restore(backup.id, volume.id, context);
    reply.status(202);
    return { restore: { backup_id: backup.id, volume_id: volume.id, volume_name: volume.name } };
  });
  app.post('/backups/:id/action', { schema: { body: ActionBody } }, async (request, reply) => {
    const reset = request.body['os-reset_status'];
    if (reset) {
      const { backup } = await find(request, 'volume_extension:backup_admin_actions:reset_status');
      await updateBackup(db, backup.id, { status: statusFrom(reset.status) });
    } else {
      const { context, backup } = await find(request, 'volume_extension:backup_admin_actions:force_delete');
      await services.backups.delete(backup.id, context, { force: true });
    }
    return await reply.status(202).send();
  });
}

async function create(
  request: FastifyRequest,
  asked: Static<typeof CreateBody>['backup'],
  context: RequestContext,
  services: BlockStorageServices,
): Promise<Backup> {
  const { db } = services;
  const volume = await getVolume(db, asked.volume_id, context);
  const snapshot = asked.snapshot_id == null ? null : await getSnapshot(db, asked.snapshot_id, context);
  if (snapshot && snapshot.volume_id !== volume.id) {
    throw badRequest(`Invalid snapshot: Snapshot ${snapshot.id} is none of volume ${volume.id}.`);
  }
  if (asked.metadata != null && !has(request, 'backup-metadata')) {
    throw badRequest("Additional properties are not allowed ('metadata' was unexpected)");
  }
  const wanted = {
    name: asked.name ?? null,
    description: asked.description ?? null,
    metadata: asked.metadata ?? {},
    container: asked.container ?? null,
    incremental: toBoolean(asked.incremental ?? false),
    force: toBoolean(asked.force ?? false),
    snapshotId: snapshot?.id ?? null,
  };
  const more = { backups: 1, backup_gigabytes: volume.size_gib };
  return await services.backups.create(volume.id, wanted, context, (tx) =>
    checkQuota(tx, context.projectId, { kind: 'backup', more, volumeType: null }),
  );
}

/** A volume that is being made from a backup, like the one that was backed up. */
async function volumeFor(
  backup: Backup,
  name: string,
  context: RequestContext,
  { db, volumes }: BlockStorageServices,
): Promise<Volume> {
  const type = backup.volume_type_id === null ? null : await findVolumeType(db, backup.volume_type_id, null);
  const of = await db.selectFrom('volumes').selectAll().where('id', '=', backup.volume_id).executeTakeFirst();
  const wanted = {
    name,
    description: `auto-created_from_restore_from_backup`,
    sizeGib: backup.size_gib,
    volumeTypeId: type?.id ?? null,
    encryption: of?.encryption ?? null,
    format: backup.layout?.encryption ?? null,
    availabilityZone: backup.availability_zone,
    metadata: {},
    imageMetadata: of?.image_metadata ?? null,
    bootable: of?.bootable ?? false,
    source: { kind: 'backup', id: backup.id },
  } as const;
  const more = { volumes: 1, gigabytes: backup.size_gib };
  const quota = { kind: 'volume', more, volumeType: type?.name ?? null, volumeGib: backup.size_gib } as const;
  return await volumes.create(wanted, context, (tx) => checkQuota(tx, context.projectId, quota));
}

/** The page of backups that a request asks for, of those the caller may see. */
async function backupsFor(request: FastifyRequest, { db }: BlockStorageServices, context: RequestContext) {
  const query = new Query(request);
  const paging = readPaging(query);
  const isEverywhere = context.isAdmin && flagFrom('all_tenants', query.text('all_tenants'));
  const wanted = backupFilters.map((filter) => [filter, query.text(filter)] as const);
  const all = (await listBackups(db, isEverywhere ? null : context.projectId)).filter((backup) =>
    wanted.every(([filter, text]) => text === null || backup[filter] === text),
  );
  return { items: paging.limit === 0 ? [] : pageOf(all, paging, order), limit: paging.limit };
}

function presentBackup(request: FastifyRequest, backup: Backup, hasDependents: boolean): object {
  return {
    status: backup.status,
    size: backup.size_gib,
    object_count: backup.object_count,
    availability_zone: backup.availability_zone,
    container: backup.container,
    created_at: presentTime(backup.created_at),
    updated_at: presentTime(backup.updated_at),
    description: backup.description,
    fail_reason: backup.fail_reason,
    volume_id: backup.volume_id,
    is_incremental: backup.parent_id !== null,
    has_dependent_backups: hasDependents,
    snapshot_id: backup.snapshot_id,
    data_timestamp: presentTime(backup.data_at),
    ...(has(request, 'backup-metadata') ? { metadata: backup.metadata } : {}),
    ...(has(request, 'encryption-key-id') && backup.secret_id !== null ? { encryption_key_id: backup.secret_id } : {}),
    'os-backup-project-attr:project_id': backup.project_id,
  };
}

function statusFrom(asked: string): BackupStatus {
  const status = asked.toLowerCase();
  if ((backupStatuses as readonly string[]).includes(status)) return status as BackupStatus;
  throw badRequest('Must specify a valid status');
}
