import type { ApiApp } from '#api/app.ts';
import { allowed, type ComputeAction } from '#api/compute/policy.ts';
import { getServer } from '#api/compute/server-lookup.ts';
import type { ComputeServices } from '#api/compute/services.ts';
import { NightlatchError, shorten } from '#core/errors.ts';

/** What clients ask for in passing, and of which there is nothing here: addresses, server groups, extensions. */
export function addEmptyRoutes(app: ApiApp, { db }: ComputeServices): void {
  const perServer: [string, ComputeAction, object][] = [
    ['ips', 'os_compute_api:ips:index', { addresses: {} }],
    ['os-interface', 'os_compute_api:os-attach-interfaces:list', { interfaceAttachments: [] }],
    ['os-security-groups', 'os_compute_api:servers:show', { security_groups: [] }],
  ];
  for (const [path, action, nothing] of perServer) {
    app.get(`/servers/:id/${path}`, async (request) => {
      await getServer(db, (request.params as { id: string }).id, allowed(request, action));
      return nothing;
    });
  }
  app.get('/servers/:id/ips/:network', async (request) => {
    await getServer(db, (request.params as { id: string }).id, allowed(request, 'os_compute_api:ips:show'));
    throw new NightlatchError('not-there', { reason: 'Network name could not be found.' });
  });
  const lists: [string, ComputeAction, object][] = [
    ['/os-server-groups', 'os_compute_api:os-server-groups:index', { server_groups: [] }],
    ['/extensions', 'os_compute_api:extensions', { extensions: [] }],
  ];
  for (const [path, action, nothing] of lists) {
    app.get(path, async (request) => {
      allowed(request, action);
      return nothing;
    });
  }
  const noItem = (kind: string) => async (request: { params: unknown }) => {
    const { id } = request.params as { id: string };
    throw new NightlatchError('not-there', { reason: `${kind} ${shorten(id)} could not be found.` });
  };
  app.get('/os-server-groups/:id', noItem('Instance group'));
  app.get('/extensions/:id', noItem('Extension'));
}
