import type { FastifyRequest } from 'fastify';
import type { ApiApp } from '#api/app.ts';
import { toBoolean } from '#api/block-storage/fields.ts';
import { has } from '#api/block-storage/microversions.ts';
import { allowed, type BlockStorageAction } from '#api/block-storage/policy.ts';
import type { BlockStorageServices } from '#api/block-storage/services.ts';
import { snapshotsFor } from '#api/block-storage/volume-list.ts';
import { getSnapshot, getVolume } from '#api/block-storage/volume-lookup.ts';
import { presentSnapshot } from '#api/block-storage/volume-presenter.ts';
import { page } from '#api/block-storage/volume-routes.ts';
import { CreateSnapshot, SnapshotActionBody, UpdateSnapshot } from '#api/block-storage/volume-schemas.ts';
import { badRequest } from '#core/errors.ts';
import { type SnapshotStatus, snapshotStatuses } from '#core/volume.ts';
import { updateSnapshot } from '#db/snapshots.ts';
import { checkQuota } from '#db/volume-quotas.ts';
import { findVolumeType } from '#db/volume-types.ts';

type Id = { id: string };

/** Snapshots of volumes, and actions on them. See Block Storage API v3 "Volume snapshots". */
export function addSnapshotRoutes(app: ApiApp, services: BlockStorageServices): void {
  const { db, publicUrl } = services;
  const find = (request: FastifyRequest, action: BlockStorageAction) =>
    getSnapshot(db, (request.params as Id).id, allowed(request, action));

  for (const [path, isDetailed] of [
    ['snapshots', false],
    ['snapshots/detail', true],
  ] as const) {
    app.get(`/${path}`, async (request) => {
      const listed = await snapshotsFor(request, db, allowed(request, 'volume:get_all_snapshots'));
      const volumes = listed.items.map((snapshot) => presentSnapshot(request, snapshot, isDetailed));
      return page(request, publicUrl, { kind: 'snapshots', path, listed, volumes });
    });
  }
  app.get('/snapshots/:id', async (request) => ({
    snapshot: presentSnapshot(request, await find(request, 'volume:get_snapshot'), true),
  }));
  app.post('/snapshots', { schema: { body: CreateSnapshot } }, async (request, reply) => {
    const context = allowed(request, 'volume:create_snapshot');
    const asked = request.body.snapshot;
    const volume = await getVolume(db, asked.volume_id ?? 'None', context);
    if (has(request, 'snapshot-in-use') && asked.force != null && !toBoolean(asked.force)) {
      throw badRequest("Since microversion 3.66 the 'force' flag can only be true: volumes in use need no force.");
    }
    const type = volume.volume_type_id === null ? null : await findVolumeType(db, volume.volume_type_id, null);
    const wanted = {
      name: asked.name ?? asked.display_name ?? null,
      description: asked.description ?? asked.display_description ?? null,
      metadata: asked.metadata ?? {},
      force: has(request, 'snapshot-in-use') || (asked.force != null && toBoolean(asked.force)),
    };
    const more = { snapshots: 1, gigabytes: volume.size_gib };
    const quota = { kind: 'snapshot', more, volumeType: type?.name ?? null } as const;
    const snapshot = await services.snapshots.create(volume.id, wanted, context, (tx) =>
      checkQuota(tx, volume.project_id, quota),
    );
    reply.status(202);
    return { snapshot: presentSnapshot(request, snapshot, false) };
  });
  app.put('/snapshots/:id', { schema: { body: UpdateSnapshot } }, async (request) => {
    const { id } = await find(request, 'volume:update_snapshot');
    const asked = request.body.snapshot;
    const name = asked.name !== undefined ? asked.name : asked.display_name;
    const description = asked.description !== undefined ? asked.description : asked.display_description;
    await updateSnapshot(db, id, {
      ...(name === undefined ? {} : { name }),
      ...(description === undefined ? {} : { description }),
    });
    return { snapshot: presentSnapshot(request, await find(request, 'volume:get_snapshot'), false) };
  });
  app.delete('/snapshots/:id', async (request, reply) => {
    const context = allowed(request, 'volume:delete_snapshot');
    const { id } = await find(request, 'volume:delete_snapshot');
    await services.snapshots.delete(id, context, { force: false });
    return await reply.status(202).send();
  });
  app.post('/snapshots/:id/action', { schema: { body: SnapshotActionBody } }, async (request, reply) => {
    const { body } = request;
    if ('os-force_delete' in body) {
      const context = allowed(request, 'volume_extension:snapshot_admin_actions:force_delete');
      const { id } = await find(request, 'volume_extension:snapshot_admin_actions:force_delete');
      await services.snapshots.delete(id, context, { force: true });
    } else if (body['os-update_snapshot_status']) {
      const { id } = await find(request, 'snapshot_extension:snapshot_actions:update_snapshot_status');
      const { status, progress } = body['os-update_snapshot_status'];
      await updateSnapshot(db, id, { status: statusFrom(status), ...(progress ? { progress } : {}) });
    } else if (body['os-reset_status']) {
      const { id } = await find(request, 'volume_extension:snapshot_admin_actions:reset_status');
      await updateSnapshot(db, id, { status: statusFrom(body['os-reset_status'].status) });
    } else {
      throw badRequest('There is no such action.');
    }
    return await reply.status(202).send();
  });
}

function statusFrom(asked: string): SnapshotStatus {
  const status = asked.toLowerCase();
  if ((snapshotStatuses as readonly string[]).includes(status)) return status as SnapshotStatus;
  throw badRequest('Must specify a valid status');
}
