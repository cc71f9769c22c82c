import type { FastifyRequest } from 'fastify';
import { contextOf, type RequestContext } from '#api/auth.ts';
import { enforce, isAllowed, type Policy } from '#api/policy.ts';

/** Who may do what, under Cinder's own names. See "Policy configuration" of Cinder. */
export const blockStoragePolicy = {
  'volume_extension:type_get': 'project-reader',
  'volume_extension:type_get_all': 'project-reader',
  'volume_extension:type_create': 'admin',
  'volume_extension:type_update': 'admin',
  'volume_extension:type_delete': 'admin',
  'volume_extension:access_types_extra_specs': 'project-reader',
  'volume_extension:access_types_qos_specs_id': 'admin',
  'volume_extension:types_extra_specs:index': 'project-reader',
  'volume_extension:types_extra_specs:show': 'project-reader',
  'volume_extension:types_extra_specs:read_sensitive': 'admin',
  'volume_extension:types_extra_specs:create': 'admin',
  'volume_extension:types_extra_specs:update': 'admin',
  'volume_extension:types_extra_specs:delete': 'admin',
  'volume_extension:volume_type_encryption:create': 'admin',
  'volume_extension:volume_type_encryption:get': 'admin',
  'volume_extension:volume_type_encryption:update': 'admin',
  'volume_extension:volume_type_encryption:delete': 'admin',
  'volume_extension:volume_type_access': 'project-member',
  'volume_extension:volume_type_access:get_all_for_type': 'admin',
  'volume_extension:volume_type_access:addProjectAccess': 'admin',
  'volume_extension:volume_type_access:removeProjectAccess': 'admin',
  'volume_extension:quotas:show': 'project-reader',
  'volume_extension:quotas:update': 'admin',
  'volume_extension:quotas:delete': 'admin',
  'volume_extension:quota_classes:get': 'admin',
  'volume_extension:quota_classes:update': 'admin',
  'limits_extension:used_limits': 'project-reader',
  'volume_extension:services:index': 'admin',
  'volume_extension:hosts': 'admin',
  'volume_extension:capabilities': 'admin',
  'scheduler_extension:scheduler_stats:get_pools': 'admin',
  'volume:create': 'project-member',
  'volume:get': 'project-reader',
  'volume:get_all': 'project-reader',
  'volume:update': 'project-member',
  'volume:delete': 'project-member',
  'volume:force_delete': 'admin',
  'volume:extend': 'project-member',
  'volume:retype': 'project-member',
  // Not Cinder's: another key for a volume, and its header.
  'volume:rekey': 'project-member',
  'volume:header_backups': 'project-member',
  'volume:restore_header': 'project-member',
  'volume:update_readonly_flag': 'project-member',
  'volume:get_volume_metadata': 'project-reader',
  'volume:create_volume_metadata': 'project-member',
  'volume:update_volume_metadata': 'project-member',
  'volume:delete_volume_metadata': 'project-member',
  'volume:create_transfer': 'project-member',
  'volume:accept_transfer': 'project-member',
  'volume:delete_transfer': 'project-member',
  'volume:get_transfer': 'project-reader',
  'volume:get_all_transfers': 'project-reader',
  'backup:create': 'project-member',
  'backup:get': 'project-reader',
  'backup:get_all': 'project-reader',
  'backup:update': 'project-member',
  'backup:delete': 'project-member',
  'backup:restore': 'project-member',
  'volume_extension:backup_admin_actions:reset_status': 'admin',
  'volume_extension:backup_admin_actions:force_delete': 'admin',
  'volume:create_snapshot': 'project-member',
  'volume:get_snapshot': 'project-reader',
  'volume:get_all_snapshots': 'project-reader',
  'volume:update_snapshot': 'project-member',
  'volume:delete_snapshot': 'project-member',
  'volume:get_snapshot_metadata': 'project-reader',
  'volume:update_snapshot_metadata': 'project-member',
  'volume:delete_snapshot_metadata': 'project-member',
  'volume_extension:volume_encryption_metadata': 'project-reader',
  'volume_extension:volume_actions:set_bootable': 'project-member',
  'volume_extension:volume_actions:reserve': 'project-member',
  'volume_extension:volume_actions:unreserve': 'project-member',
  'volume_extension:volume_actions:begin_detaching': 'project-member',
  'volume_extension:volume_actions:roll_detaching': 'project-member',
  'volume_extension:volume_actions:upload_image': 'project-member',
  'volume_extension:volume_actions:upload_public': 'admin',
  'volume:revert_to_snapshot': 'project-member',
  'volume:reimage': 'project-member',
  'volume:reimage_reserved': 'project-member',
  'volume_extension:volume_actions:attach': 'project-member',
  'volume_extension:volume_actions:detach': 'project-member',
  'volume:attachment_create': 'project-member',
  'volume:attachment_update': 'project-member',
  'volume:attachment_delete': 'project-member',
  'volume:attachment_complete': 'project-member',
  'volume_extension:volume_image_metadata:show': 'project-reader',
  'volume_extension:volume_image_metadata:set': 'project-member',
  'volume_extension:volume_image_metadata:remove': 'project-member',
  'volume_extension:volume_admin_actions:reset_status': 'admin',
  'volume_extension:volume_admin_actions:force_delete': 'admin',
  'volume_extension:volume_admin_actions:force_detach': 'admin',
  'volume_extension:volume_admin_actions:migrate_volume': 'admin',
  'volume_extension:snapshot_admin_actions:reset_status': 'admin',
  'volume_extension:snapshot_admin_actions:force_delete': 'admin',
  'snapshot_extension:snapshot_actions:update_snapshot_status': 'project-member',
  'message:get': 'project-reader',
  'message:get_all': 'project-reader',
  'message:delete': 'project-member',
} as const satisfies Policy<string>;
export type BlockStorageAction = keyof typeof blockStoragePolicy;

/**
 * The caller, when the policy lets it do this in its own project, or in the one named.
 * @throws unauthorized; forbidden (403).
 */
export function allowed(request: FastifyRequest, action: BlockStorageAction, projectId?: string): RequestContext {
  const context = contextOf(request);
  enforce(blockStoragePolicy, action, context, { projectId: projectId ?? context.projectId });
  return context;
}

/** Whether the policy lets the caller do this. */
export function mayDo(context: RequestContext, action: BlockStorageAction): boolean {
  return isAllowed(blockStoragePolicy, action, context);
}
