import { noServer } from '#api/compute/server-lookup.ts';
import { NightlatchError } from '#core/errors.ts';
import type { ServerId } from '#core/ids.ts';
import type { Database } from '#db/database.ts';

/** Nova's default quota. It also keeps the config drive within its size. */
const MAX_ITEMS = 128;
const MAX_TAGS = 50;
type Metadata = Readonly<Record<string, string>>;

/** Refuses more metadata than a server may have. @throws refused (403) with Nova's text. */
export function checkMetadataCount(metadata: Metadata): void {
  if (Object.keys(metadata).length <= MAX_ITEMS) return;
  throw new NightlatchError('refused', { reason: `Maximum number of metadata items exceeds ${MAX_ITEMS}` });
}

/** Changes a server's metadata as one step: of changes at once none is lost. Returns what it is then. */
export async function changeMetadata(
  db: Database,
  id: ServerId,
  change: (old: Metadata) => Metadata,
): Promise<Metadata> {
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
