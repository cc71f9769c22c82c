import type { ApiApp } from '#api/app.ts';
import { allowed } from '#api/block-storage/policy.ts';
import type { BlockStorageServices } from '#api/block-storage/services.ts';
import { getVolumeType } from '#api/block-storage/type-lookup.ts';
import { TypeAction } from '#api/block-storage/type-schemas.ts';
import { badRequest, NightlatchError, shorten } from '#core/errors.ts';
import type { ProjectId } from '#core/ids.ts';
import { grantVolumeType, revokeVolumeType, typeProjects, type VolumeType } from '#db/volume-types.ts';

type Ids = { id: string };

/** Which projects may use a volume type that is not public. See Block Storage API v3 "Volume type access". */
export function addTypeAccessRoutes(app: ApiApp, { db }: BlockStorageServices): void {
  app.get('/types/:id/os-volume-type-access', async (request) => {
    const context = allowed(request, 'volume_extension:volume_type_access:get_all_for_type');
    const type = await getVolumeType(db, (request.params as Ids).id, context);
    if (type.is_public) {
      throw new NightlatchError('not-there', { reason: 'Access list not available for public volume types.' });
    }
    const projects = await typeProjects(db, type.id);
    return { volume_type_access: projects.map((project) => ({ volume_type_id: type.id, project_id: project })) };
  });
  app.post('/types/:id/action', { schema: { body: TypeAction } }, async (request, reply) => {
    const { id } = request.params as Ids;
    if ('addProjectAccess' in request.body) {
      const context = allowed(request, 'volume_extension:volume_type_access:addProjectAccess');
      await grant(await getVolumeType(db, id, context), request.body.addProjectAccess.project as ProjectId);
    } else {
      const context = allowed(request, 'volume_extension:volume_type_access:removeProjectAccess');
      await revoke(await getVolumeType(db, id, context), request.body.removeProjectAccess.project as ProjectId);
    }
    return await reply.status(202).send();
  });

  async function grant(type: VolumeType, project: ProjectId): Promise<void> {
    refusePublic(type);
    if (await grantVolumeType(db, type.id, project)) return;
    throw new NightlatchError('conflict', {
      reason: `Volume type access for ${type.id} / ${shorten(project)} combination already exists.`,
    });
  }

  async function revoke(type: VolumeType, project: ProjectId): Promise<void> {
    refusePublic(type);
    if (await revokeVolumeType(db, type.id, project)) return;
    throw new NightlatchError('not-there', {
      reason: `Volume type access not found for ${type.id} / ${shorten(project)} combination.`,
    });
  }
}

function refusePublic(type: VolumeType): void {
  if (!type.is_public) return;
  throw badRequest('Invalid volume type: Type access modification is not applicable to public volume type.');
}
