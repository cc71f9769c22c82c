import type { FastifyRequest } from 'fastify';
import { contextOf, type RequestContext } from '#api/auth.ts';
import { enforce, isAllowed, type Policy } from '#api/policy.ts';
import type { UserId } from '#core/ids.ts';

/** Who may do what, under Nova's own names. See "Nova Policies". */
export const computePolicy = {
  'os_compute_api:servers:index': 'project-reader',
  'os_compute_api:servers:detail': 'project-reader',
  'os_compute_api:servers:index:get_all_tenants': 'admin',
  'os_compute_api:servers:allow_all_filters': 'admin',
  'os_compute_api:servers:show': 'project-reader',
  'os_compute_api:servers:show:host_status': 'admin',
  'os_compute_api:os-extended-server-attributes': 'admin',
  'os_compute_api:servers:create': 'project-member',
  // Nova keeps this to admins; here a root disk of the image's size is as limited as any other.
  'os_compute_api:servers:create:zero_disk_flavor': 'project-member',
  'compute:servers:create:requested_destination': 'admin',
  'os_compute_api:servers:update': 'project-member',
  'os_compute_api:servers:delete': 'project-member',
  'os_compute_api:servers:start': 'project-member',
  'os_compute_api:servers:stop': 'project-member',
  'os_compute_api:servers:reboot': 'project-member',
  'os_compute_api:servers:resize': 'project-member',
  'os_compute_api:servers:confirm_resize': 'project-member',
  'os_compute_api:servers:revert_resize': 'project-member',
  'os_compute_api:servers:rebuild': 'project-member',
  'os_compute_api:servers:create_image': 'project-member',
  'os_compute_api:os-shelve:shelve': 'project-member',
  'os_compute_api:os-shelve:unshelve': 'project-member',
  'os_compute_api:os-shelve:shelve_offload': 'admin',
  'os_compute_api:os-suspend-server:suspend': 'project-member',
  'os_compute_api:os-suspend-server:resume': 'project-member',
  'os_compute_api:os-pause-server:pause': 'project-member',
  'os_compute_api:os-pause-server:unpause': 'project-member',
  'os_compute_api:os-rescue': 'project-member',
  'os_compute_api:os-unrescue': 'project-member',
  'os_compute_api:os-lock-server:lock': 'project-member',
  'os_compute_api:os-lock-server:unlock': 'project-member',
  'os_compute_api:os-lock-server:unlock:unlock_override': 'admin',
  'os_compute_api:os-admin-actions:reset_state': 'admin',
  'os_compute_api:os-console-output': 'project-member',
  'os_compute_api:os-remote-consoles': 'project-member',
  'os_compute_api:servers:action': 'project-member',
  'os_compute_api:server-metadata:index': 'project-reader',
  'os_compute_api:server-metadata:show': 'project-reader',
  'os_compute_api:server-metadata:create': 'project-member',
  'os_compute_api:server-metadata:update_all': 'project-member',
  'os_compute_api:server-metadata:update': 'project-member',
  'os_compute_api:server-metadata:delete': 'project-member',
  'os_compute_api:os-server-tags:index': 'project-reader',
  'os_compute_api:os-server-tags:show': 'project-reader',
  'os_compute_api:os-server-tags:update': 'project-member',
  'os_compute_api:os-server-tags:update_all': 'project-member',
  'os_compute_api:os-server-tags:delete': 'project-member',
  'os_compute_api:os-server-tags:delete_all': 'project-member',
  'os_compute_api:os-volumes:list': 'project-reader',
  'os_compute_api:os-volumes:show': 'project-reader',
  'os_compute_api:os-volumes:create': 'project-member',
  'os_compute_api:os-volumes:delete': 'project-member',
  'os_compute_api:os-volumes-attachments:index': 'project-reader',
  'os_compute_api:os-volumes-attachments:show': 'project-reader',
  'os_compute_api:os-volumes-attachments:create': 'project-member',
  'os_compute_api:os-volumes-attachments:update': 'project-member',
  'os_compute_api:os-volumes-attachments:delete': 'project-member',
  'os_compute_api:ips:index': 'project-reader',
  'os_compute_api:ips:show': 'project-reader',
  'os_compute_api:os-attach-interfaces:list': 'project-reader',
  'os_compute_api:flavors': 'anyone',
  'os_compute_api:os-flavor-manage:create': 'admin',
  'os_compute_api:os-flavor-manage:update': 'admin',
  'os_compute_api:os-flavor-manage:delete': 'admin',
  'os_compute_api:os-flavor-access': 'admin',
  'os_compute_api:os-flavor-access:add_tenant_access': 'admin',
  'os_compute_api:os-flavor-access:remove_tenant_access': 'admin',
  'os_compute_api:os-flavor-extra-specs:index': 'project-reader',
  'os_compute_api:os-flavor-extra-specs:show': 'project-reader',
  'os_compute_api:os-flavor-extra-specs:create': 'admin',
  'os_compute_api:os-flavor-extra-specs:update': 'admin',
  'os_compute_api:os-flavor-extra-specs:delete': 'admin',
  'os_compute_api:limits': 'anyone',
  'os_compute_api:extensions': 'anyone',
  'os_compute_api:os-availability-zone:list': 'anyone',
  'os_compute_api:os-availability-zone:detail': 'admin',
  'os_compute_api:os-services:list': 'admin',
  'os_compute_api:os-hypervisors:list': 'admin',
  'os_compute_api:os-quota-sets:show': 'project-reader',
  'os_compute_api:os-quota-sets:defaults': 'anyone',
  'os_compute_api:os-server-groups:index': 'project-reader',
  'os_compute_api:os-instance-actions:list': 'project-reader',
  'os_compute_api:os-instance-actions:show': 'project-reader',
  'os_compute_api:os-keypairs:index': 'self',
  'os_compute_api:os-keypairs:show': 'self',
  'os_compute_api:os-keypairs:create': 'self',
  'os_compute_api:os-keypairs:delete': 'self',
} as const satisfies Policy<string>;
export type ComputeAction = keyof typeof computePolicy;

/** The caller, when the policy lets it do this in its own project. @throws unauthorized; forbidden (403). */
export function allowed(request: FastifyRequest, action: ComputeAction): RequestContext {
  const context = contextOf(request);
  enforce(computePolicy, action, context, { projectId: context.projectId, userId: context.userId });
  return context;
}

/** Lets the caller do this to what is this user's. @throws forbidden (403). */
export function allowedFor(request: FastifyRequest, action: ComputeAction, userId: UserId): void {
  const context = contextOf(request);
  enforce(computePolicy, action, context, { projectId: context.projectId, userId });
}

/** Whether the policy lets the caller do this. */
export function mayDo(context: RequestContext, action: ComputeAction): boolean {
  return isAllowed(computePolicy, action, context);
}
