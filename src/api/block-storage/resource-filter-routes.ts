import type { ApiApp } from '#api/app.ts';
import { contextOf } from '#api/auth.ts';
import { attachmentFilters } from '#api/block-storage/attachment-routes.ts';
import { backupFilters } from '#api/block-storage/backup-routes.ts';
import { messageFilters } from '#api/block-storage/message-routes.ts';
import { requireFeature } from '#api/block-storage/microversions.ts';
import { snapshotFilters, volumeFilters } from '#api/block-storage/volume-list.ts';
import { Query } from '#api/query.ts';

const filters: Readonly<Record<string, readonly string[]>> = {
  volume: Object.keys(volumeFilters),
  snapshot: Object.keys(snapshotFilters),
  backup: backupFilters,
  attachment: Object.keys(attachmentFilters),
  message: messageFilters,
  volume_type: ['is_public', 'extra_specs'],
  pool: ['name', 'volume_type'],
};

/** What lists can be restricted by. See Block Storage API v3 "Resource Filters". */
export function addResourceFilterRoutes(app: ApiApp): void {
  app.get('/resource_filters', async (request) => {
    requireFeature(request, 'resource-filters');
    contextOf(request);
    const wanted = new Query(request).text('resource');
    const shown = Object.entries(filters).filter(([resource]) => wanted === null || resource === wanted);
    return { resource_filters: shown.map(([resource, names]) => ({ resource, filters: names })) };
  });
}
