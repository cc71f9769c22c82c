import type { RequestContext } from '#api/auth.ts';
import { isStorableText } from '#api/fields.ts';
import { NightlatchError, shorten } from '#core/errors.ts';
import type { Queryable } from '#db/database.ts';
import { findVolumeType, findVolumeTypeNamed, type VolumeType } from '#db/volume-types.ts';

/** The volume type of this id, when the caller may see it. @throws not-there (404). */
export async function getVolumeType(db: Queryable, id: string, context: RequestContext): Promise<VolumeType> {
  const type = isStorableText(id) ? await findVolumeType(db, id, viewerOf(context)) : null;
  if (!type) throw noVolumeType(id);
  return type;
}

/** The volume type of this id or name, when the caller may see it. @throws not-there (404). */
export async function getVolumeTypeNamed(
  db: Queryable,
  nameOrId: string,
  context: RequestContext,
): Promise<VolumeType> {
  const type = await findVolumeTypeNamed(db, nameOrId, viewerOf(context));
  if (!type) throw noVolumeType(nameOrId);
  return type;
}

/** The volume type of volumes that are created without one. @throws default-volume-type-missing (500). */
export async function getDefaultVolumeType(db: Queryable, name: string): Promise<VolumeType> {
  const type = await findVolumeTypeNamed(db, name, null);
  if (!type) throw new NightlatchError('default-volume-type-missing', { name });
  return type;
}

export function noVolumeType(id: string): NightlatchError {
  return new NightlatchError('not-there', { reason: `Volume type ${shorten(id)} could not be found.` });
}

function viewerOf(context: RequestContext) {
  return context.isAdmin ? null : context.projectId;
}
