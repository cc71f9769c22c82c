import type { FastifyRequest } from 'fastify';
import { Type } from 'typebox';
import type { ApiApp } from '#api/app.ts';
import { createVolume } from '#api/block-storage/create-volume.ts';
import { Metadata, NullableName, NullableText } from '#api/block-storage/fields.ts';
import { getVolume } from '#api/block-storage/volume-lookup.ts';
import { surroundingsOf, type VolumeSurroundings } from '#api/block-storage/volume-presenter.ts';
import { requireNotYet } from '#api/compute/microversions.ts';
import { allowed, type ComputeAction } from '#api/compute/policy.ts';
import type { ComputeServices } from '#api/compute/services.ts';
import { exactly } from '#api/fields.ts';
import { Query } from '#api/query.ts';
import { presentTime } from '#api/times.ts';
import { listVolumes, type Volume } from '#db/volumes.ts';

const CreateVolumeBody = exactly({
  volume: Type.Object({
    size: Type.Union([Type.Integer(), Type.String({ minLength: 1, maxLength: 32 })]),
    display_name: Type.Optional(NullableName),
    display_description: Type.Optional(NullableText),
    volume_type: Type.Optional(NullableText),
    availability_zone: Type.Optional(NullableText),
    snapshot_id: Type.Optional(NullableText),
    metadata: Type.Optional(Type.Union([Metadata, Type.Null()])),
  }),
});

/** Volumes as Compute served them before there was a service for them, up to 2.35. See Compute API "Volume extension". */
export function addVolumeProxyRoutes(app: ApiApp, services: ComputeServices): void {
  const { db } = services;
  const permit = (request: FastifyRequest, action: ComputeAction) => {
    requireNotYet(request, 'no-network-limits');
    return allowed(request, action);
  };
  const present = async (volumes: readonly Volume[]) => {
    const surroundings = await surroundingsOf(db, volumes);
    return volumes.map((volume) => presentVolume(volume, surroundings));
  };
  for (const path of ['/os-volumes', '/os-volumes/detail']) {
    app.get(path, async (request) => {
      const { projectId } = permit(request, 'os_compute_api:os-volumes:list');
      const query = new Query(request);
      const start = query.count('offset') ?? 0;
      return { volumes: await present((await listVolumes(db, projectId)).slice(start, start + query.limit())) };
    });
  }
  app.get('/os-volumes/:id', async (request) => {
    const context = permit(request, 'os_compute_api:os-volumes:show');
    const [volume] = await present([await getVolume(db, (request.params as { id: string }).id, context)]);
    return { volume };
  });
  app.post('/os-volumes', { schema: { body: CreateVolumeBody } }, async (request) => {
    const context = permit(request, 'os_compute_api:os-volumes:create');
    const [volume] = await present([await createVolume(request, request.body.volume, context, services)]);
    return { volume };
  });
  app.delete('/os-volumes/:id', async (request, reply) => {
    const context = permit(request, 'os_compute_api:os-volumes:delete');
    const { id } = await getVolume(db, (request.params as { id: string }).id, context);
    await services.volumes.delete(id, context, { force: false, cascade: false });
    return await reply.status(202).send();
  });
}

function presentVolume(volume: Volume, { attachments, types }: VolumeSurroundings): object {
  const attachment = attachments.get(volume.id);
  const isAttached = attachment?.status === 'attached' && attachment.server_id !== null;
  return {
    id: volume.id,
    status: volume.status,
    size: volume.size_gib,
    availabilityZone: volume.availability_zone,
    createdAt: presentTime(volume.created_at),
    displayName: volume.name,
    displayDescription: volume.description,
    volumeType: volume.volume_type_id === null ? null : (types.get(volume.volume_type_id) ?? null),
    snapshotId: volume.source.kind === 'snapshot' ? volume.source.id : null,
    metadata: volume.metadata,
    // One that is not attached has one attachment too, of which nothing is said.
    attachments: isAttached
      ? [{ id: volume.id, volumeId: volume.id, serverId: attachment.server_id, device: attachment.device }]
      : [{}],
  };
}
