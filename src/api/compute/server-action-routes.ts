import type { ApiApp } from '#api/app.ts';
import { ActionBody, RemoteConsoleBody } from '#api/compute/action-schemas.ts';
import { actions, notServed, unservedActions } from '#api/compute/actions.ts';
import { linksTo } from '#api/compute/links.ts';
import { requireFeature } from '#api/compute/microversions.ts';
import { allowed } from '#api/compute/policy.ts';
import { getServer } from '#api/compute/server-lookup.ts';
import type { ComputeServices } from '#api/compute/services.ts';
import { badRequest, shorten } from '#core/errors.ts';

type Id = { id: string };

/** Actions on servers, and addresses of their consoles. See Compute API "Servers - run an action". */
export function addServerActionRoutes(app: ApiApp, services: ComputeServices): void {
  app.post('/servers/:id/action', { schema: { body: ActionBody } }, async (request, reply) => {
    const { body } = request;
    const [name = ''] = Object.keys(body);
    const { id } = request.params as Id;
    if (unservedActions.has(name)) {
      await getServer(services.db, id, allowed(request, 'os_compute_api:servers:action'));
      throw notServed(name);
    }
    const action = Object.hasOwn(actions, name) ? actions[name] : undefined;
    if (!action) throw badRequest(`There is no such action: ${shorten(name, 64)}`);
    const context = allowed(request, action.policy);
    const server = await getServer(services.db, id, context);
    const answer = await action.run({ request, reply, body, context, server, services });
    const [self] = action.isLocated ? linksTo(request, services.publicUrl, `servers/${server.id}`) : [];
    if (self) reply.header('location', self.href);
    if (answer === null) return await reply.status(action.status ?? 202).send();
    return await reply.status(action.status ?? 200).send(answer);
  });
  app.post('/servers/:id/remote-consoles', { schema: { body: RemoteConsoleBody } }, async (request) => {
    requireFeature(request, 'remote-consoles');
    const context = allowed(request, 'os_compute_api:os-remote-consoles');
    const server = await getServer(services.db, (request.params as Id).id, context);
    const { protocol, type } = request.body.remote_console;
    if ((protocol === 'serial') !== (type === 'serial')) {
      throw badRequest(`Invalid input for field/attribute type: '${type}' is no console of protocol ${protocol}.`);
    }
    if (protocol !== 'serial') throw badRequest(`Unavailable console type ${type}.`);
    return { remote_console: { protocol, type, url: services.consoles.offer(request, server) } };
  });
}
