import type { ApiApp } from '#api/app.ts';
import { Metadata as MetadataField } from '#api/compute/fields.ts';
import { allowed, type ComputeAction } from '#api/compute/policy.ts';
import { checkUnlocked, getServer, noServer } from '#api/compute/server-lookup.ts';
import type { ComputeServices } from '#api/compute/services.ts';
import { addMetadataRoutes, type Metadata } from '#api/metadata-routes.ts';
import { NightlatchError } from '#core/errors.ts';
import type { ServerId } from '#core/ids.ts';
import type { Database } from '#db/database.ts';

/** Nova's default quota. It also keeps the config drive within its size. */
const MAX_ITEMS = 128;
const MAX_TAGS = 50;

/** Metadata of servers. What the guest was given on its config drive stays as it was. */
export function addServerMetadata(app: ApiApp, { db }: ComputeServices): void {
  addMetadataRoutes<ComputeAction>(app, {
    path: 'servers',
    schema: MetadataField,
    deleted: 204,
    policy: {
      list: 'os_compute_api:server-metadata:index',
      create: 'os_compute_api:server-metadata:create',
      replace: 'os_compute_api:server-metadata:update_all',
      show: 'os_compute_api:server-metadata:show',
      update: 'os_compute_api:server-metadata:update',
      delete: 'os_compute_api:server-metadata:delete',
    },
    find: async (request, id, action) => {
      const context = allowed(request, action);
      const server = await getServer(db, id, context);
      if (request.method !== 'GET') checkUnlocked(server, context);
      return server;
    },
    change: (id, change) => changeMetadata(db, id as ServerId, change),
  });
}

/** Refuses more metadata than a server may have. @throws refused (403) with Nova's text. */
export function checkMetadataCount(metadata: Metadata): void {
  if (Object.keys(metadata).length <= MAX_ITEMS) return;
  throw new NightlatchError('refused', { reason: `Maximum number of metadata items exceeds ${MAX_ITEMS}` });
}

/** Changes a server's metadata as one step: of changes at once none is lost. Returns what it is then. */
async function changeMetadata(db: Database, id: ServerId, change: (old: Metadata) => Metadata): Promise<Metadata> {
  return await db.transaction().execute(async (tx) => {
    const row = await tx.selectFrom('servers').select('metadata').where('id', '=', id).forUpdate().executeTakeFirst();
    if (!row) throw noServer(id);
    const metadata = change(row.metadata);
    checkMetadataCount(metadata);
    const changes = { metadata: JSON.stringify(metadata), updated_at: new Date() };
    await tx.updateTable('servers').set(changes).where('id', '=', id).execute();
    return metadata;
  });
}

/** Changes a server's tags as one step. Returns what they were and are, in order. */
export async function changeTags(
  db: Database,
  id: ServerId,
  change: (old: readonly string[]) => readonly string[],
): Promise<{ before: readonly string[]; after: readonly string[] }> {
  return await db.transaction().execute(async (tx) => {
    const row = await tx.selectFrom('servers').select('tags').where('id', '=', id).forUpdate().executeTakeFirst();
    if (!row) throw noServer(id);
    const tags = [...new Set(change(row.tags))].sort();
    if (tags.length > MAX_TAGS) {
      throw new NightlatchError('bad-request', {
        reason: `The number of tags exceeded the per-server limit ${MAX_TAGS}`,
      });
    }
    await tx.updateTable('servers').set({ tags, updated_at: new Date() }).where('id', '=', id).execute();
    return { before: row.tags, after: tags };
  });
}
